"""The last lines of every ``worldsim`` command.

They go to stderr and are hidden by ``--quiet``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from worldsim.runtime.next_steps import Ending, line
from worldsim.runtime.progress import say

if TYPE_CHECKING:
    from worldsim.app.compare import CompareConfig
    from worldsim.app.demo import DemoConfig
    from worldsim.app.export import ExportConfig
    from worldsim.app.view import ViewConfig
    from worldsim.app.watch import WatchConfig
    from worldsim.app.worlds import WorldsConfig
    from worldsim.data.dataset import EpisodeDataset
    from worldsim.data.minari import ExportMinariConfig, ImportMinariConfig
    from worldsim.data.record import RecordConfig
    from worldsim.evaluation.agreement import AgreementConfig
    from worldsim.evaluation.bench import BenchConfig
    from worldsim.evaluation.evaluate import EvaluateConfig
    from worldsim.evaluation.evaluate_agent import EvaluateAgentConfig
    from worldsim.training.distil import DistilConfig
    from worldsim.training.train import TrainConfig
    from worldsim.world import World


class Reports(Protocol):
    """The config of a command that prints results and optionally writes them to a file."""

    @property
    def json(self) -> Path | None:
        """The file."""
        ...


def tell(command: str, config: object, result: object) -> None:
    """Print the ending of ``command``.

    config: its config.
    result: what its function returned.
    """
    if command in ENDINGS:
        say(ENDINGS[command](config, result).text())


def _after_record(config: RecordConfig | ImportMinariConfig, dataset: EpisodeDataset) -> Ending:
    blind = () if dataset.info.geometry else ("--no-memory",)
    runs = Path("runs") / config.out.name
    return Ending(
        str(config.out), (line("worldsim", "train", "--data", config.out, "--out", runs, *blind),)
    )


def _after_export_minari(config: ExportMinariConfig, _: object) -> Ending:
    return Ending(
        f"Minari's dataset {config.name}",
        (line("worldsim", "import-minari", config.name, "--out", Path("data") / "copy"),),
    )


def _after_train(config: TrainConfig | DistilConfig, world: World) -> Ending:
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


def _after_evaluate(config: EvaluateConfig, _: object) -> Ending:
    out = Path("export") / Path(config.world).name
    return _figures(
        config,
        line("worldsim", "bench", config.world),
        line("worldsim", "export", config.world, "--out", out),
    )


def _after_evaluate_agent(config: EvaluateAgentConfig, _: object) -> Ending:
    of = () if config.world is None else ("--world", config.world)
    return _figures(config, line("worldsim", "watch", config.agent, *of, "--out", "watch.mp4"))


def _after_agreement(config: AgreementConfig, _: object) -> Ending:
    agent = config.agents[0] if config.agents else "random"
    return _figures(config, line("worldsim", "evaluate-agent", agent, "--world", config.world))


def _after_watch(config: WatchConfig, _: object) -> Ending:
    of = () if config.world is None else ("--world", config.world)
    return Ending(str(config.out), (line("worldsim", "evaluate-agent", config.agent, *of),))


def _after_bench(config: BenchConfig, _: object) -> Ending:
    return _figures(config, line("worldsim", "evaluate", config.world))


def _after_compare(config: CompareConfig | DemoConfig, _: object) -> Ending:
    return Ending(str(config.out), (line("worldsim", "evaluate", config.world),))


def _after_export(config: ExportConfig, out: Path) -> Ending:
    if out.is_dir() and (out / "world.json").is_file():
        return Ending(str(out), (line("worldsim", "evaluate", out), line("worldsim", "bench", out)))
    return Ending(str(out), (line("worldsim", "view", config.source),))


def _after_view(config: ViewConfig, _: object) -> Ending:
    return Ending(
        "what was shown stays in the snapshot",
        (line("worldsim", "export", config.snapshot, "--to", "glb"),),
    )


def _after_worlds(config: WorldsConfig, _: object) -> Ending:
    return _figures(config, line("worldsim", "demo", "--world", "freedoom-tiny"))


def _figures(config: Reports, *then: str) -> Ending:
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
    "export": _after_export,
    "view": _after_view,
    "worlds": _after_worlds,
}
"""By command; :data:`worldsim.app.cli.COMMANDS` has the same."""
