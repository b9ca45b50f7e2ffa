"""DIAMOND and worldsim side by side: the same frames, the same minutes, the same judge.

    python -m experiments.peers.run --env ALE/Freeway-v5 --diamond PATH --minutes 5 --out DIR

PATH is a checkout of github.com/eloialonso/diamond, which the user fetches; none of it is part of
this repository. Needs ``pip install hydra-core==1.3.2 torcheval==0.0.7`` beside worldsim, and for
the environments ``ale-py`` or ``gymnasium[box2d]``. Results and what they mean:
docs/experiments/peers.md.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import tyro

from experiments.peers import diamond, stages
from experiments.peers.settings import PeersConfig, mark
from experiments.peers.table import table
from worldsim.errors import InvalidInputError
from worldsim.runtime.json_config import read_json, to_json, write_json
from worldsim.runtime.types import JsonObject


def all_stages(config: PeersConfig) -> Iterator[tuple[str, Callable[[], JsonObject]]]:
    """All stages by name, in order."""
    yield "record", lambda: stages.record(config)
    yield "export", lambda: diamond.export(config)
    yield "untrained", lambda: stages.untrained(config)
    yield "real-others", partial(stages.real, config, "others", config.minutes[0])
    # Named by its end: more minutes go on from its checkpoint.
    yield f"diamond-{mark(config.minutes[-1])}", lambda: stages.train_diamond(config)
    for minutes in config.minutes:
        name = mark(minutes)
        yield f"worldsim-{name}", partial(stages.train_worldsim, config, minutes)
        yield f"frames-{name}", partial(stages.frames, config, minutes)
        for what, function in (
            ("agent", stages.learn), ("real", stages.real), ("dreams", stages.dreamed),
        ):  # fmt: skip
            for side in stages.SIDES:
                yield f"{what}-{side}-{name}", partial(function, config, side, minutes)
        yield f"returns-{name}", partial(stages.returns, config, minutes)


def main(config: PeersConfig) -> None:
    """Run one stage, or all that are not done."""
    config = dataclasses.replace(
        config,
        out=config.out.resolve(),
        diamond=config.diamond.resolve(),
        meet=None if config.meet is None else config.meet.resolve(),
    )
    (config.out / "results").mkdir(parents=True, exist_ok=True)
    check_same(config)
    known = dict(all_stages(config))
    if config.stage != "all":
        if config.stage not in known:
            raise SystemExit(f"no stage {config.stage!r}: choose one of {', '.join(known)}")
        write_json(config.result(config.stage), known[config.stage]())
        return
    for name in known:
        if not config.result(name).exists():
            began = time.monotonic()
            command = [sys.executable, "-m", "experiments.peers.run", *sys.argv[1:]]
            subprocess.run([*command, "--stage", name], check=True, env=dict(os.environ))
            print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        summarise(config, list(known))
    print(table(read_json(config.out / "summary.json")))


MAY_CHANGE = (
    "out", "diamond", "stage", "minutes", "workers", "bootstrap", "meet", "dreamed_steps",
)  # fmt: skip
"""Settings that may be others when a comparison goes on."""


def check_same(config: PeersConfig) -> None:
    """Raise InvalidInputError if the folder holds a comparison with other settings."""
    wanted = {k: v for k, v in to_json(config).items() if k not in MAY_CHANGE}
    path = config.out / "config.json"
    if not path.exists():
        write_json(path, wanted)
        return
    found = read_json(path)
    other = sorted(k for k in wanted if found.get(k) != wanted[k])
    if other:
        raise InvalidInputError(
            f"{config.out} holds a comparison with other {', '.join(other)}: give another --out"
        )


def summarise(config: PeersConfig, names: list[str]) -> None:
    """Write ``summary.json`` from the results that exist."""
    found = {n: read_json(config.result(n)) for n in names if config.result(n).exists()}
    shown = {
        k: v
        for k, v in dataclasses.asdict(config).items()
        if k not in ("out", "diamond", "stage", "meet")
    }
    write_json(config.out / "summary.json", {"config": shown, "results": found})
    (config.out / "table.txt").write_text(table(read_json(config.out / "summary.json")) + "\n")


if __name__ == "__main__":
    main(tyro.cli(PeersConfig))
