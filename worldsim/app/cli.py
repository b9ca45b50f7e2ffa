"""The command line ``worldsim COMMAND``.

Each command's options come from the documented dataclass of the module that does the work.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from worldsim import __version__
from worldsim.app import endings
from worldsim.errors import InvalidInputError, WorldsimError
from worldsim.runtime.children import safe_imports
from worldsim.runtime.cluster_connection import with_cluster_value
from worldsim.runtime.files import is_file, require_replaceable
from worldsim.runtime.next_steps import Ending
from worldsim.runtime.old_names import with_new_options
from worldsim.runtime.progress import say, silence
from worldsim.runtime.ranges import Threads
from worldsim.runtime.threads import use_threads, wait_passively

USAGE_ERROR = 2
INTERRUPTED = 130


@dataclass(frozen=True)
class Command:
    """One command, named by strings so that only the chosen one is imported."""

    module: str
    config: str
    function: str
    summary: str
    positional: str | None = None
    """The config's field that is given without its name."""
    ending: Callable[[Any, Any], Ending] = endings.after_any
    """Takes the config and the function's result; returns the last lines to print."""

    def load(self) -> tuple[type, Any]:
        """Import and return the config class and the function that takes it."""
        module = importlib.import_module(self.module)
        return getattr(module, self.config), getattr(module, self.function)


@dataclass(frozen=True)
class Common:
    """Options that every command has, unless it defines an option of the same name."""

    quiet: bool = False
    threads: Threads | None = None


COMMON_HELP = {
    "quiet": "Show results, warnings and errors alone: no progress, and not what comes next.",
    "threads": "Threads of the CPU; PyTorch's choice if not given. Beside other work on the same "
    "cores, 1 may be fastest.",
}
"""By option of :class:`Common`. tyro reads docstrings of fields in sources, and forms made at run
time have no source."""

COMMANDS = {
    "record": Command(
        "worldsim.data.record",
        "RecordConfig",
        "record",
        "Record episodes of a Gymnasium environment.",
        "env_id",
        ending=endings.after_record,
    ),
    "report": Command(
        "worldsim.data.report",
        "ReportConfig",
        "report",
        "Say what a recording holds, and whether a world can learn it.",
        "data",
        ending=endings.after_report,
    ),
    "import-videos": Command(
        "worldsim.data.videos",
        "ImportVideosConfig",
        "import_videos",
        "Make a recording of videos with their actions.",
        "source",
        ending=endings.after_record,
    ),
    "import-lerobot": Command(
        "worldsim.data.lerobot",
        "ImportLeRobotConfig",
        "import_lerobot",
        "Make a recording of a LeRobot dataset.",
        "source",
        ending=endings.after_record,
    ),
    "export-minari": Command(
        "worldsim.data.minari",
        "ExportMinariConfig",
        "export_minari",
        "Copy a recording into Minari.",
        "data",
        ending=endings.after_export_minari,
    ),
    "import-minari": Command(
        "worldsim.data.minari",
        "ImportMinariConfig",
        "import_minari",
        "Make a recording of a Minari dataset.",
        "name",
        ending=endings.after_record,
    ),
    "train": Command(
        "worldsim.app.training",
        "TrainConfig",
        "train",
        "Train a world on recorded episodes.",
        ending=endings.after_train,
    ),
    "fit": Command(
        "worldsim.app.fit.run",
        "FitConfig",
        "fit",
        "Record, train, evaluate an environment; report on one page.",
        "env_id",
        ending=endings.after_fit,
    ),
    "distil": Command(
        "worldsim.app.training",
        "DistilConfig",
        "distil",
        "Make a student of few sampling steps.",
        "world",
        ending=endings.after_train,
    ),
    "evaluate": Command(
        "worldsim.evaluation.evaluate",
        "EvaluateConfig",
        "evaluate",
        "Measure a world against its real twin, or a painter.",
        "world",
        ending=endings.after_evaluate,
    ),
    "evaluate-agent": Command(
        "worldsim.evaluation.evaluate_agent",
        "EvaluateAgentConfig",
        "evaluate_agent",
        "Measure an agent in dream and real twin.",
        "agent",
        ending=endings.after_evaluate_agent,
    ),
    "agreement": Command(
        "worldsim.evaluation.agreement",
        "AgreementConfig",
        "agreement",
        "Compare policies' returns in dream and real twin.",
        "world",
        ending=endings.after_agreement,
    ),
    "compare": Command(
        "worldsim.app.compare",
        "CompareConfig",
        "compare",
        "Film a world beside its real twin, same actions.",
        "world",
        ending=endings.after_compare,
    ),
    "watch": Command(
        "worldsim.app.watch",
        "WatchConfig",
        "watch",
        "Film an agent in dream and real twin.",
        "agent",
        ending=endings.after_watch,
    ),
    "provenance": Command(
        "worldsim.app.provenance",
        "ProvenanceConfig",
        "provenance",
        "Say where a file comes from: signature, manifest, mark.",
        "file",
        ending=endings.after_provenance,
    ),
    "bench": Command(
        "worldsim.evaluation.bench",
        "BenchConfig",
        "bench",
        "Measure how fast a world is stepped.",
        "world",
        ending=endings.after_bench,
    ),
    "demo": Command(
        "worldsim.app.demo",
        "DemoConfig",
        "demo",
        "Walk through the shipped world; write video, pictures, metrics.",
        ending=endings.after_compare,
    ),
    "generate": Command(
        "worldsim.app.generate",
        "GenerateConfig",
        "generate",
        "Paint new places to start from, from words or pictures.",
        ending=endings.after_generate,
    ),
    "export": Command(
        "worldsim.app.export",
        "ExportConfig",
        "export",
        "Write a world, or what a snapshot or a scene holds.",
        "source",
        ending=endings.after_export,
    ),
    "view": Command(
        "worldsim.app.view",
        "ViewConfig",
        "view",
        "Show the memory of a snapshot or a scene in the browser.",
        "snapshot",
        ending=endings.after_view,
    ),
    "play": Command(
        "worldsim.app.play",
        "PlayConfig",
        "play",
        "Walk through a generated world in the browser.",
        ending=endings.after_play,
    ),
    "serve": Command(
        "worldsim.app.serve",
        "ServeConfig",
        "serve",
        "Offer worlds as sessions over HTTP and WebSocket.",
        ending=endings.after_serve,
    ),
    "journey": Command(
        "worldsim.app.journey",
        "JourneyRunConfig",
        "journey",
        "Make a trip through new places from words.",
        ending=endings.after_journey,
    ),
    "worlds": Command(
        "worldsim.app.worlds",
        "WorldsConfig",
        "worlds",
        "List the worlds that are shipped.",
        ending=endings.after_worlds,
    ),
    "words": Command(
        "worldsim.app.words",
        "WordsConfig",
        "words",
        "List the words that prompts may use.",
        ending=endings.after_words,
    ),
}

FOR_PAINTERS = {
    "evaluate": Command(
        "worldsim.painting.evaluation.evaluate",
        "EvaluatePainterConfig",
        "evaluate_painter",
        "Measure a painter on places of test maps.",
        "painter",
        ending=endings.after_evaluate_painter,
    ),
}
"""What a command of :data:`COMMANDS` does where its argument names a painter instead of a world."""
PAINTER_CARD = "painter.json"
SHIPPED = Path(__file__).parent.parent / "worlds"


def command_for(name: str, arguments: Sequence[str]) -> Command:
    """Return the command ``name`` for what the arguments name, a world or a painter.

    Raises InvalidInputError for an option that belongs to the other one of the two, and for a name
    that is almost that of a shipped painter.
    """
    if name not in FOR_PAINTERS:
        return COMMANDS[name]
    painter = next((text for text in arguments if names_painter(text)), None)
    if painter is None:
        _check_spelling(arguments)
    kinds = {"worlds": COMMANDS[name], "painters": FOR_PAINTERS[name]}
    own = "worlds" if painter is None else "painters"
    options = {kind: options_of(command) for kind, command in kinds.items()}
    for text in arguments:
        option = text.partition("=")[0]
        elsewhere = [kind for kind, known in options.items() if option in known]
        if elsewhere and own not in elsewhere:
            what = "no painter is named" if painter is None else f"{painter} is a painter"
            raise InvalidInputError(
                f"{option} is an option for {elsewhere[0]}, and {what}: worldsim {name} "
                f"{painter or ''} --help lists the options that fit".replace("  ", " ")
            )
    return kinds[own]


def names_painter(text: str) -> bool:
    """Return whether ``text`` is the name of a shipped painter or a painter's folder."""
    return bool(text) and any(
        is_file(folder / PAINTER_CARD) for folder in (Path(text), SHIPPED / text)
    )


def _check_spelling(arguments: Sequence[str]) -> None:
    """Raise InvalidInputError for a misspelled name of a shipped painter."""
    painters = [path.parent.name for path in SHIPPED.glob(f"*/{PAINTER_CARD}")]
    for text in arguments:
        close = difflib.get_close_matches(text, painters, n=1, cutoff=0.8)
        if close and not Path(text).exists():
            raise InvalidInputError(f"there is no painter {text!r}: did you mean {close[0]!r}?")


def options_of(command: Command) -> set[str]:
    """Return the names of a command's own options, such as ``--json``."""
    config_class, _ = command.load()
    names = {field.name.replace("_", "-") for field in fields(config_class) if field.init}
    return {f"--{name}" for name in names} | {f"--no-{name}" for name in names}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # Before a command's module loads torch.
    wait_passively()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else USAGE_ERROR
    if arguments[0] == "--version":
        print(f"worldsim {__version__}")
        return 0
    try:
        with safe_imports():
            return run(arguments[0], arguments[1:])
    except WorldsimError as error:
        print(f"error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def printable(text: str) -> str:
    """Escape control characters, since messages contain names from files."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def run(name: str, arguments: Sequence[str]) -> int:
    """Parse ``arguments`` into the command's config and call it."""
    if name not in COMMANDS:
        print(f"error: {unknown(name)}", file=sys.stderr)
        return USAGE_ERROR
    command = command_for(name, arguments)
    _, function = command.load()
    config, common = parse_all(name, arguments)
    report = getattr(config, "json", None)
    if report is not None:
        # Before an hour's work, not after it.
        require_replaceable(report)
    use_threads(common.threads)
    with silence(common.quiet):
        say(command.ending(config, function(config)).text())
    return 0


def parse(name: str, arguments: Sequence[str]) -> Any:
    """Return the config of command ``name`` from ``arguments``."""
    return parse_all(name, arguments)[0]


def parse_all(name: str, arguments: Sequence[str]) -> tuple[Any, Common]:
    """Return the config of command ``name`` and the common options from ``arguments``."""
    import tyro

    command = command_for(name, arguments)
    config_class, _ = command.load()
    own = [field.name for field in fields(config_class) if field.init]
    # Enums by their values, as files have them.
    settings = (tyro.conf.EnumChoicesFromValues,)
    form = _form(config_class, command.positional)
    parsed: Any = tyro.cli(
        form,
        prog=f"worldsim {name}",
        description=command.summary,
        args=with_cluster_value(with_new_options(config_class, arguments)),
        config=settings,
    )
    common = {
        field.name: getattr(parsed, field.name) for field in fields(Common) if field.name not in own
    }
    return config_class(**{field: getattr(parsed, field) for field in own}), Common(**common)


def _form(config_class: type, positional: str | None) -> type:
    """Return ``config_class`` with :class:`Common`'s fields and one field as a positional argument.

    Configs thus need no code for the command line.
    """
    from tyro.conf import FlagCreatePairsOff, Positional, arg

    hints: dict[str, Any] = {}
    if positional is not None:
        plain: Any = get_type_hints(config_class)[positional]
        hints[positional] = Annotated[plain, Positional, arg(metavar=positional.upper())]
    body: dict[str, Any] = {
        "__annotations__": hints,
        "__doc__": config_class.__doc__,
        "__module__": config_class.__module__,
    }
    own, types = (
        {field.name for field in fields(config_class)},
        get_type_hints(Common, include_extras=True),
    )
    for field in fields(Common):
        if field.name not in own:
            kind: Any = types[field.name]
            hints[field.name] = Annotated[
                kind, FlagCreatePairsOff, arg(help=COMMON_HELP[field.name])
            ]
            body[field.name] = field.default
    return dataclass(frozen=True)(type(config_class.__name__, (config_class,), body))


def usage() -> str:
    """Return the text of ``worldsim --help``."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    more = "worldsim COMMAND --help describes one command; every one takes --quiet and --threads."
    return "\n".join(["usage: worldsim COMMAND [OPTIONS]", "", *lines, "", more])


def unknown(name: str) -> str:
    """Return the error text for a command that does not exist."""
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"there is no command {name!r}: {hint}commands are {', '.join(COMMANDS)}"


if __name__ == "__main__":
    sys.exit(main())
