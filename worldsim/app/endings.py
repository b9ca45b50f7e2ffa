"""The last lines of every ``worldsim`` command, for :data:`worldsim.app.cli.COMMANDS`.

Each function takes the command's config and result. The lines go to stderr and are hidden by
``--quiet``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from worldsim.runtime.next_steps import Ending, line

if TYPE_CHECKING:
    from worldsim.app.compare import CompareConfig
    from worldsim.app.demo import DemoConfig
    from worldsim.app.export import ExportConfig
    from worldsim.app.fit.config import FitConfig
    from worldsim.app.generate import GenerateConfig
    from worldsim.app.journey import JourneyRunConfig
    from worldsim.app.play import PlayConfig
    from worldsim.app.provenance import ProvenanceConfig
    from worldsim.app.serve import ServeConfig
    from worldsim.app.view import ViewConfig
    from worldsim.app.watch import WatchConfig
    from worldsim.app.words import WordsConfig
    from worldsim.app.worlds import WorldsConfig
    from worldsim.data.dataset import EpisodeDataset
    from worldsim.data.lerobot import ImportLeRobotConfig
    from worldsim.data.minari import ExportMinariConfig, ImportMinariConfig
    from worldsim.data.record import RecordConfig
    from worldsim.data.report import ReportConfig
    from worldsim.data.videos import ImportVideosConfig
    from worldsim.evaluation.agreement import AgreementConfig
    from worldsim.evaluation.bench import BenchConfig
    from worldsim.evaluation.config import EvaluateConfig
    from worldsim.evaluation.evaluate_agent import EvaluateAgentConfig
    from worldsim.painting.evaluation.evaluate import EvaluatePainterConfig
    from worldsim.training.distil import DistilConfig
    from worldsim.training.train import TrainConfig
    from worldsim.world import World


class Reports(Protocol):
    """The config of a command that prints results and optionally writes them to a file."""

    @property
    def json(self) -> Path | None:
        """The file."""
        ...


def after_any(config: object, _: object) -> Ending:
    """Return the ending of a command that names no next one: where its result is."""
    out = getattr(config, "out", None)
    return Ending("printed above" if out is None else str(out))


def after_record(
    config: RecordConfig | ImportMinariConfig | ImportVideosConfig | ImportLeRobotConfig,
    dataset: EpisodeDataset,
) -> Ending:
    """The dataset; next, train on it."""
    blind = () if dataset.info.geometry else ("--no-memory",)
    runs = Path("runs") / Path(config.out).name
    return Ending(
        str(config.out), (line("worldsim", "train", "--data", config.out, "--out", runs, *blind),)
    )


def after_report(config: ReportConfig, _: object) -> Ending:
    """The report; next, train on the recording."""
    runs = Path("runs") / Path(config.data).name
    return _figures(config, line("worldsim", "train", "--data", config.data, "--out", runs))


def after_export_minari(config: ExportMinariConfig, _: object) -> Ending:
    """Minari's dataset; next, import it."""
    return Ending(
        f"Minari's dataset {config.name}",
        (line("worldsim", "import-minari", config.name, "--out", Path("data") / "copy"),),
    )


def after_train(config: TrainConfig | DistilConfig, world: World) -> Ending:
    """The world; next, evaluate it, or learn in it if it has rewards."""
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


def after_fit(config: FitConfig, _: object) -> Ending:
    """The page; next, film the agent's world, or go on with another round."""
    folder = config.out / f"round-{config.rounds}" / "world"
    return Ending(
        f"{config.out / 'report.html'}, a page for the browser",
        (
            line("worldsim", "compare", folder, "--history", 1, "--out", config.out / "more.mp4"),
            line("worldsim", "bench", folder),
        ),
    )


def after_evaluate(config: EvaluateConfig, _: object) -> Ending:
    """The figures; next, measure speed or export."""
    out = Path("export") / Path(config.world).name
    return _figures(
        config,
        line("worldsim", "bench", config.world),
        line("worldsim", "export", config.world, "--out", out),
    )


def after_evaluate_painter(config: EvaluatePainterConfig, _: object) -> Ending:
    """The figures; next, paint a place."""
    return _figures(
        config, line("worldsim", "generate", "--painter", config.painter, "--out", "out/place")
    )


def after_evaluate_agent(config: EvaluateAgentConfig, _: object) -> Ending:
    """The figures; next, watch the agent."""
    of = () if config.world is None else ("--world", config.world)
    return _figures(config, line("worldsim", "watch", config.agent, *of, "--out", "watch.mp4"))


def after_agreement(config: AgreementConfig, _: object) -> Ending:
    """The figures; next, evaluate one of the agents."""
    agent = config.agents[0] if config.agents else "random"
    return _figures(config, line("worldsim", "evaluate-agent", agent, "--world", config.world))


def after_watch(config: WatchConfig, _: object) -> Ending:
    """The film; next, evaluate the agent."""
    of = () if config.world is None else ("--world", config.world)
    result = str(config.out if config.failures is None else config.failures)
    return Ending(result, (line("worldsim", "evaluate-agent", config.agent, *of),))


def after_provenance(config: ProvenanceConfig, _: object) -> Ending:
    """What was found; next, ask for one's own key."""
    result = "printed above" if config.json is None else str(config.json)
    return Ending(result, (line("worldsim", "provenance", config.file, "--key", "own"),))


def after_bench(config: BenchConfig, _: object) -> Ending:
    """The figures; next, evaluate the world."""
    return _figures(config, line("worldsim", "evaluate", config.world))


def after_compare(config: CompareConfig | DemoConfig, _: object) -> Ending:
    """The film; next, evaluate the world."""
    return Ending(str(config.out), (line("worldsim", "evaluate", config.world),))


def after_generate(config: GenerateConfig, out: Path) -> Ending:
    """The folder of scenes; next, look at one."""
    place = out if config.count == 1 else out / "place-1"
    return Ending(
        f"{out}, a folder of scenes to start from",
        (line("worldsim", "view", place), line("worldsim", "export", place, "--to", "glb")),
    )


def after_export(config: ExportConfig, out: Path) -> Ending:
    """What was written; next, use it."""
    if out.is_dir() and (out / "world.json").is_file():
        return Ending(str(out), (line("worldsim", "evaluate", out), line("worldsim", "bench", out)))
    return Ending(str(out), (line("worldsim", "view", config.source),))


def after_view(config: ViewConfig, _: object) -> Ending:
    """The snapshot; next, export it."""
    return Ending(
        "what was shown stays in the snapshot",
        (line("worldsim", "export", config.snapshot, "--to", "glb"),),
    )


def after_play(config: PlayConfig, _: object) -> Ending:
    """What was taken away; next, look at a snapshot of it."""
    return Ending(
        "what was taken away lies where the browser saves files",
        (line("worldsim", "view", f"{Path(config.world).name}-walk.safetensors"),),
    )


def after_serve(config: ServeConfig, _: object) -> Ending:
    """Where sessions are kept; next, serve again."""
    kept = "nothing is kept (--state FOLDER saves sessions)"
    again = ["worldsim", "serve", "--port", config.port]
    if config.state is not None:
        kept, again = f"{config.state}, sessions to resume", [*again, "--state", config.state]
    return Ending(kept, (line(*again),))


def after_journey(_: JourneyRunConfig, out: Path) -> Ending:
    """The scene of a journey; next, look at it."""
    return Ending(
        f"{out}, a scene to start from",
        (line("worldsim", "view", out), line("worldsim", "export", out, "--to", "glb")),
    )


def after_worlds(config: WorldsConfig, _: object) -> Ending:
    """The list; next, a demo."""
    return _figures(config, line("worldsim", "demo", "--world", "freedoom-tiny"))


def after_words(config: WordsConfig, _: object) -> Ending:
    """The words; next, a prompt of them."""
    return _figures(config, line("worldsim", "words", "--prompt", "a dark brick hall with lava"))


def _figures(config: Reports, *then: str) -> Ending:
    """Return the ending of a command that prints results and optionally writes them to a file."""
    return Ending(
        "printed above (--json FILE keeps it)" if config.json is None else str(config.json), then
    )
