"""Twins in processes of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from worldsim.errors import NotFoundError
from worldsim.sessions.protocol import TwinStartAt
from worldsim.sessions.spare_twin import SpareTwin
from worldsim.sessions.twin_process import TwinMaker
from worldsim.sessions.twins import Twin
from worldsim.world import World
from worldsim.world.twin import make_twin, recipe_of

PATIENCE = 120.0


@pytest.fixture(scope="module")
def twin(room: World) -> Iterator[Twin]:
    """A twin that has walked its history, in a spare process that was ready for a longer one."""
    spare = SpareTwin()
    spare.prepare(TwinMaker(recipe_of(room), 9))
    start = TwinStartAt(
        kind="twin", history=4, options={"map": "room-6"}, policy="persistent", seed=3
    )
    twin = Twin(room, start, 3, spare)
    scene = twin.begin().result(PATIENCE)
    assert scene.rgb.shape[0] == 4
    assert spare.take() is None
    spare.close()
    assert twin.frame is not None
    assert np.array_equal(scene.rgb[-1].permute(1, 2, 0).numpy(), twin.frame.rgb)
    yield twin
    twin.close()


def test_a_twin_is_the_real_environment(twin: Twin, room: World) -> None:
    frames = [twin.step(action).result(PATIENCE) for action in (1, 3, 1)]
    env = make_twin(room)
    obs, _ = env.reset(seed=twin.seed, options={"map": "room-6"})
    for action in (*twin._actions[:3], 1, 3, 1):
        obs, reward, _, _, info = env.step(action)
    env.close()
    assert np.array_equal(obs, frames[-1].rgb) and reward == frames[-1].reward
    assert np.allclose(info["pose"], frames[-1].pose)


def test_a_twin_whose_process_dies_is_made_again(twin: Twin) -> None:
    frames = [twin.replay([1, 1]).result(PATIENCE), twin.step(3).result(PATIENCE)]
    before = twin.process_id
    assert before is not None
    os.kill(before, signal.SIGSEGV)
    last = twin.step(1).result(PATIENCE)
    assert twin.process_id not in (None, before)
    # It stands where it would have stood.
    again = twin.replay([1, 1, 3, 1]).result(PATIENCE)
    assert np.array_equal(last.rgb, again.rgb)
    assert np.array_equal(twin.replay([1, 1]).result(PATIENCE).rgb, frames[0].rgb)
    assert np.array_equal(twin.step(3).result(PATIENCE).rgb, frames[1].rgb)


def test_a_fork_repeats_the_walk(twin: Twin) -> None:
    here = twin.replay([1, 3, 1]).result(PATIENCE)
    fork = twin.fork([1, 3, 1])
    try:
        assert np.array_equal(fork.replay([]).result(PATIENCE).rgb, here.rgb)
        after = [one.step(1).result(PATIENCE) for one in (twin, fork)]
        assert np.array_equal(after[0].rgb, after[1].rgb)
    finally:
        fork.close()


def test_a_spare_process_that_nobody_takes_ends() -> None:
    spare = SpareTwin()
    assert spare._worker is not None
    spare._thread.submit(int).result(PATIENCE)
    process = psutil.Process(spare._worker.process_id)
    spare.close()
    process.wait(PATIENCE)


def test_errors_and_ends(room: World) -> None:
    twin = Twin(room, TwinStartAt(kind="twin", history=4, options={"map": "nowhere"}), 0)
    with pytest.raises(NotFoundError, match="nowhere"):
        twin.begin().result(PATIENCE)
    process = psutil.Process(twin.process_id)
    twin.close()
    process.wait(PATIENCE)
