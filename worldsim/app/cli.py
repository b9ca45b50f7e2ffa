"""The command line ``worldsim COMMAND``.

Each command's options come from the documented dataclass of the module that does the work.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_type_hints

from worldsim import __version__
from worldsim.app import endings
from worldsim.errors import WorldsimError
from worldsim.runtime.children import safe_imports
from worldsim.runtime.files import require_replaceable
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
        "worldsim.training.train",
        "TrainConfig",
        "train",
        "Train a world on recorded episodes.",
        ending=endings.after_train,
    ),
    "distil": Command(
        "worldsim.training.distil",
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
        "Measure a world against its real twin.",
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
    command = COMMANDS[name]
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

    command = COMMANDS[name]
    config_class, _ = command.load()
    own = [field.name for field in fields(config_class) if field.init]
    # Enums by their values, as files have them.
    settings = (tyro.conf.EnumChoicesFromValues,)
    form = _form(config_class, command.positional)
    parsed: Any = tyro.cli(
        form,
        prog=f"worldsim {name}",
        description=command.summary,
        args=with_new_options(config_class, arguments),
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
