"""The last lines of every command: where its result is, and which command to run next.

They go to stderr and are hidden by ``--quiet``.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldsim.runtime.progress import say


@dataclass(frozen=True)
class Ending:
    """The last lines of a command.

    result: where its result is, or how to keep it.
    then: next commands, most useful first.
    """

    result: str
    then: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the lines to print."""
        names = ("next:  ", *[" " * 7] * len(self.then))
        return "\n".join(
            [
                f"result: {self.result}",
                *(f"{name} {line}" for name, line in zip(names, self.then, strict=False)),
            ]
        )


def tell(command: str, config: Any, result: Any) -> None:
    """Print the ending of ``command``.

    config: its config.
    result: what its function returned.
    """
    if command in ENDINGS:
        say(ENDINGS[command](config, result).text())


def line(*words: object) -> str:
    """Join words to a command line, with shell quoting."""
    return shlex.join(map(str, words))


def _after_record(config: Any, dataset: Any) -> Ending:
    blind = () if dataset.info.geometry else ("--no-memory",)
    runs = Path("runs") / config.out.name
    return Ending(
        str(config.out), (line("worldsim", "train", "--data", config.out, "--out", runs, *blind),)
    )


def _after_export_minari(config: Any, _: Any) -> Ending:
    return Ending(
        f"Minari's dataset {config.name}",
        (line("worldsim", "import-minari", config.name, "--out", Path("data") / "copy"),),
    )


def _after_train(config: Any, world: Any) -> Ending:
    folder = config.out / "world"
    then = [line("worldsim", "evaluate", folder)]
    if world.config.has_rewards:
        then.append(line("worldsim", "evaluate-agent", "random", "--world", folder))
        then.append(
            line(
                "python",
                "-m",
                "worldsim.agents.actor_critic",
                "--world",
                folder,
                "--out",
                config.out / "agent",
            )
        )
    if world.has_geometry and world.spec.actions == 7:
        then.append(line("worldsim", "demo", "--world", folder))
    return Ending(str(folder), tuple(then))


def _after_evaluate(config: Any, _: Any) -> Ending:
    out = Path("export") / Path(config.world).name
    return _figures(
        config,
        line("worldsim", "bench", config.world),
        line("worldsim", "export", config.world, "--out", out),
    )


def _after_evaluate_agent(config: Any, _: Any) -> Ending:
    of = () if config.world is None else ("--world", config.world)
    return _figures(config, line("worldsim", "watch", config.agent, *of, "--out", "watch.mp4"))


def _after_agreement(config: Any, _: Any) -> Ending:
    agent = config.agents[0] if config.agents else "random"
    return _figures(config, line("worldsim", "evaluate-agent", agent, "--world", config.world))


def _after_watch(config: Any, _: Any) -> Ending:
    of = () if config.world is None else ("--world", config.world)
    return Ending(str(config.out), (line("worldsim", "evaluate-agent", config.agent, *of),))


def _after_bench(config: Any, _: Any) -> Ending:
    return _figures(config, line("worldsim", "evaluate", config.world))


def _after_compare(config: Any, _: Any) -> Ending:
    return Ending(str(config.out), (line("worldsim", "evaluate", config.world),))


def _after_generate(config: Any, out: Path) -> Ending:
    place = out if config.count == 1 else out / "place-1"
    return Ending(
        str(out),
        (
            line("worldsim", "view", place),
            f'in Python: gym.make("worldsim/FreedoomDream-v0", scenes={str(out)!r})',
        ),
    )


def _after_export(config: Any, out: Path) -> Ending:
    if out.is_dir() and (out / "world.json").is_file():
        return Ending(str(out), (line("worldsim", "evaluate", out), line("worldsim", "bench", out)))
    return Ending(str(out), (line("worldsim", "view", config.source),))


def _after_view(config: Any, _: Any) -> Ending:
    return Ending(
        "what was shown stays in the snapshot",
        (line("worldsim", "export", config.snapshot, "--to", "glb"),),
    )


def _after_journey(config: Any, out: Path) -> Ending:
    return Ending(
        str(out),
        (
            line("worldsim", "view", out),
            line("worldsim", "export", out, "--to", "glb"),
            f'gymnasium.make("worldsim/FreedoomDream-v0", scenes="{out}")',
        ),
    )


def _after_worlds(config: Any, _: Any) -> Ending:
    return _figures(config, line("worldsim", "demo", "--world", "freedoom-tiny"))


def _figures(config: Any, *then: str) -> Ending:
    """Return the ending of a command that prints results and optionally writes them to a file."""
    return Ending(
        "printed above (--json FILE keeps it)" if config.json is None else str(config.json), then
    )


ENDINGS: dict[str, Callable[[Any, Any], Ending]] = {
    "record": _after_record,
    "import-minari": _after_record,
    "export-minari": _after_export_minari,
    "train": _after_train,
    "distil": _after_train,
    "evaluate": _after_evaluate,
    "evaluate-agent": _after_evaluate_agent,
    "agreement": _after_agreement,
    "watch": _after_watch,
    "bench": _after_bench,
    "demo": _after_compare,
    "compare": _after_compare,
    "generate": _after_generate,
    "export": _after_export,
    "view": _after_view,
    "journey": _after_journey,
    "worlds": _after_worlds,
}
"""By command; :data:`worldsim.app.cli.COMMANDS` has the same."""
