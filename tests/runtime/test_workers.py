"""Engines and processes that die or hang: what they played is played again, and only what fails
every time is an error."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.killing import Killer, children
from worldsim.envs.tiny_room import TinyRoom
from worldsim.errors import EngineError, InvalidInputError
from worldsim.evaluation.benchmark_set import TestSetConfig, digest, record_test_set
from worldsim.evaluation.episodes import Task, real_episodes
from worldsim.evaluation.policy_batch import PolicySpec
from worldsim.runtime.workers import TRIES, Engine, Watched, Worker, WorkerPool, report
from worldsim.world import World


class Thing:
    """Breaks down so many times, over all things."""

    breakdowns = 0
    made: list[Thing]

    def __init__(self) -> None:
        Thing.made.append(self)
        self.closed = False

    def play(self) -> int:
        if Thing.breakdowns:
            Thing.breakdowns -= 1
            raise RuntimeError("crash")
        return len(Thing.made)

    def close(self) -> None:
        self.closed = True
        raise OSError("what is broken does not close either")


@pytest.mark.parametrize("breakdowns", [0, 1, TRIES - 1, TRIES])
def test_an_engine_is_made_anew(breakdowns: int) -> None:
    Thing.made, Thing.breakdowns = [], breakdowns
    engine = Engine(Thing)
    if breakdowns == TRIES:
        with pytest.raises(EngineError, match="broke down 4 times in a row .RuntimeError: crash"):
            engine.play(Thing.play)
    else:
        assert engine.play(Thing.play) == breakdowns + 1
        assert not Thing.made[-1].closed
    engine.close()
    assert all(thing.closed for thing in Thing.made)


def test_errors_that_explain_themselves_are_no_breakdowns() -> None:
    Thing.made, Thing.breakdowns = [], 0

    def refuse(thing: Thing) -> None:
        raise InvalidInputError("no")

    with pytest.raises(InvalidInputError, match="no"):
        Engine(Thing).play(refuse)
    assert len(Thing.made) == 1


def room(size: int) -> Watched:
    return Watched(TinyRoom(size=size))


def large(engine: Engine[Watched], seed: int) -> np.ndarray[Any, Any]:
    """More than a pipe holds."""
    return engine.play(lambda env: np.stack([env.reset(seed=seed)[0]] * 400))


def die_once(engine: Engine[Watched], folder: Path, seed: int) -> tuple[int, int]:
    """The first process that does this is gone."""
    report(seed)
    if not (folder / f"{seed}").exists():
        (folder / f"{seed}").touch()
        os._exit(1)
    return seed, int(engine.play(lambda env: env.reset(seed=seed)[0]).sum())


def hang_once(engine: Engine[Watched], folder: Path) -> str:
    """No engine is there to be killed, so the process is."""

    def play(env: Watched) -> str:
        if not (folder / "hung").exists():
            (folder / "hung").touch()
            env.unwrapped.reset = lambda **_: time.sleep(600.0)  # type: ignore[method-assign]
            env.reset()
        return "played"

    return engine.play(play)


def fail(engine: Engine[Watched]) -> None:
    raise KeyError("a bug")


def test_tasks_of_dead_and_hung_processes_are_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldsim.runtime.workers.GRACE_S", 0.5)
    expected = [
        die_once(Engine(partial(room, 16)), touched(tmp_path / "here", seed), seed)
        for seed in range(3)
    ]
    folder = touched(tmp_path / "there")
    with WorkerPool(2, partial(room, 16), timeout_s=1.0) as pool:
        assert dict(pool.run(die_once, [(folder, seed) for seed in range(3)])) == dict(
            enumerate(expected)
        )
        assert list(pool.run(hang_once, [(folder,)])) == [(0, "played")]
        here = large(Engine(partial(room, 64)), 1)
        ((_, there),) = pool.run(partial(large), [(1,)])
        assert there.nbytes > 2**17 and there.shape[0] == len(here)
        with pytest.raises(KeyError, match="a bug") as caught:
            list(pool.run(fail, [()]))
        assert "In a worker process" in caught.value.__notes__[0]
        alive = children()
        # A process that died is replaced when a task needs it.
        assert alive and all(os.getpgid(one.pid) == one.pid for one in alive)
    assert children() == []


def touched(folder: Path, *seeds: int) -> Path:
    folder.mkdir(exist_ok=True)
    for seed in seeds:
        (folder / f"{seed}").touch()
    return folder


def test_no_processes_and_no_tasks() -> None:
    with WorkerPool(0, partial(room, 16)) as pool:
        assert [index for index, _ in pool.run(large, [(1,), (2,)])] == [0, 1]
    with WorkerPool(2, partial(room, 16)) as pool:
        assert list(pool.run(large, [])) == []


@pytest.mark.slow
def test_evaluating_an_agent_survives_kills() -> None:
    """Of the real twin with monsters: one worker and one engine."""
    pytest.importorskip("vizdoom", reason="the real twin needs the extra doom")
    world = World.from_pretrained("takecover", "cpu")
    tasks = [Task(PolicySpec("random"), seed) for seed in range(6)]
    undisturbed = real_episodes(world, tasks, 24, workers=0)
    with Killer("worker", "engine") as killer:
        disturbed = real_episodes(world, tasks, 24, workers=2)
    assert killer.killed == ["worker", "engine"]
    for one, other in zip(undisturbed, disturbed, strict=True):
        assert (one.total, one.steps, one.truncated) == (other.total, other.steps, other.truncated)
        assert (
            one.start is not None
            and other.start is not None
            and one.start.rgb.equal(other.start.rgb)
        )
    killer.check_nothing_is_left()


@pytest.mark.slow
def test_recording_a_test_set_survives_kills(tmp_path: Path) -> None:
    pytest.importorskip("vizdoom", reason="the real twin needs the extra doom")
    config = TestSetConfig("worldsim/FreedoomReal-v0", {}, history=6, horizon=4)
    undisturbed = record_test_set(config, range(2))
    with Killer("both") as killer:
        disturbed = record_test_set(config, range(2), workers=2, cache=tmp_path)
    assert killer.killed == ["both"] and digest(undisturbed) == digest(disturbed)
    killer.check_nothing_is_left()
    assert not list(tmp_path.rglob(".*"))


def test_what_cannot_be_sent_to_a_process_is_named() -> None:
    worker = Worker(lambda: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(InvalidInputError, match="cannot be sent to its process"):
        worker.call(print)
    assert worker.process_id is None
    worker.close()
