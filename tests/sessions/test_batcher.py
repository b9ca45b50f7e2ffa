"""Steps of many sessions in one forward: equal to single ones, and independent of one another."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.worlds import make_tiny_world
from worldsim.errors import WorldsimError
from worldsim.sessions.batcher import Batcher, Held, Outcome, gather
from worldsim.state import SceneStart, WorldState, flatten
from worldsim.world import World


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    made = Batcher(window=0.2)
    yield made
    made.close()


def act(action: int) -> Any:
    return np.array([action], np.int64)


def starts(world: World, scene: SceneStart, n: int) -> list[Held]:
    return [Held(world.initial([scene], [seed])) for seed in range(n)]


def same(one: WorldState, other: WorldState) -> None:
    mine, others = flatten(one), flatten(other)
    assert mine.keys() == others.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, others[name], rtol=0, atol=0, msg=name)


def test_rows_are_those_of_a_batch(batcher: Batcher, tiny_world: World, room_scene: Any) -> None:
    """Three sessions in bucket 8, twice; one of them waits in between."""
    helds = starts(tiny_world, room_scene, 3)
    states = [held.get(tiny_world) for held in helds]

    async def steps() -> list[list[Outcome]]:
        first = await asyncio.gather(
            *(batcher.step(tiny_world, 8, held, act(i)) for i, held in enumerate(helds))
        )
        second = await asyncio.gather(
            *(batcher.step(tiny_world, 8, first[i].held, act(1)) for i in (0, 2))
        )
        third = await asyncio.gather(
            batcher.step(tiny_world, 8, second[0].held, act(2)),
            batcher.step(tiny_world, 8, first[1].held, act(3)),
        )
        return [list(first), list(second), list(third)]

    first, second, third = asyncio.run(steps())
    assert [one.batch for one in first] == [3, 3, 3] and batcher.forwards == 3

    def alone(state: WorldState, action: int) -> WorldState:
        acts = torch.tensor([action] + [0] * 7)
        return tiny_world.step(tiny_world.pad(state, 8), acts)[0].select(torch.tensor([0]))

    expected = [alone(state, i) for i, state in enumerate(states)]
    for outcome, state in zip(first, expected, strict=True):
        same(outcome.held.get(tiny_world), state)
    same(second[1].held.get(tiny_world), alone(expected[2], 1))
    same(third[0].held.get(tiny_world), alone(alone(expected[0], 1), 2))
    same(third[1].held.get(tiny_world), alone(expected[1], 3))


def test_a_forward_waits_for_sessions_that_step_at_present(
    tiny_world: World, room_scene: Any
) -> None:
    """Calls run meanwhile: the others may need them before they step again."""
    batcher = Batcher(window=1.0)
    helds = starts(tiny_world, room_scene, 3)
    names = ["a", "b", "c"]

    async def steps() -> tuple[list[int], bool, list[int]]:
        together = threading.Event()
        batcher.call(together.wait)
        first = [batcher.step(tiny_world, 8, helds[i], act(1), names[i]) for i in range(3)]
        together.set()
        done = await asyncio.gather(*first)
        lane = batcher._lanes[tiny_world][8]
        expected = lane.expected
        early = batcher.step(tiny_world, 8, done[0].held, act(1), "a")
        await asyncio.wrap_future(batcher.call(lambda: None))
        waited = not early.done() and expected == 3
        late = [batcher.step(tiny_world, 8, done[i].held, act(1), names[i]) for i in (1, 2)]
        again = await asyncio.gather(early, *late)
        return [one.batch for one in done], waited, [one.batch for one in again]

    first, waited, second = asyncio.run(steps())
    batcher.close()
    assert first == second == [3, 3, 3] and waited


def test_a_failing_step_fails_alone(batcher: Batcher, tiny_world: World, room_scene: Any) -> None:
    helds = starts(tiny_world, room_scene, 3)
    broken = Held(make_tiny_world(geometry=False).blank(1))

    async def steps() -> list[Outcome | BaseException]:
        mixed = [helds[0], broken, helds[1], helds[2]]
        futures = [batcher.step(tiny_world, 8, held, act(1)) for held in mixed]
        return await asyncio.gather(*futures, return_exceptions=True)

    results = asyncio.run(steps())
    assert [isinstance(one, BaseException) for one in results] == [False, True, False, False]
    whole = tiny_world.pad(gather(tiny_world, helds, 8), 8)
    expected = tiny_world.step(whole, torch.tensor([1] * 8))[0]
    for i, row in ((0, 0), (2, 1), (3, 2)):
        outcome = results[i]
        assert isinstance(outcome, Outcome)
        same(outcome.held.get(tiny_world), expected.select(torch.tensor([row])))


def test_more_steps_than_a_bucket(batcher: Batcher, tiny_world: World, room_scene: Any) -> None:
    helds = starts(tiny_world, room_scene, 10)

    async def steps() -> list[Outcome]:
        return list(
            await asyncio.gather(*(batcher.step(tiny_world, 8, held, act(1)) for held in helds))
        )

    results = asyncio.run(steps())
    assert sorted(one.batch for one in results) == [2, 2, *[8] * 8]


def test_calls_and_shutting_down(tiny_world: World, room_scene: Any) -> None:
    batcher = Batcher()
    assert batcher.call(lambda: 3).result(60) == 3
    with pytest.raises(ZeroDivisionError):
        batcher.call(lambda: 1 // 0).result(60)
    assert batcher.call(lambda: 4).result(60) == 4
    batcher.close()
    with pytest.raises(WorldsimError, match="shutting down"):
        batcher.call(lambda: 5)


def test_a_row_does_not_keep_its_batch(
    batcher: Batcher, tiny_world: World, room_scene: Any
) -> None:
    """What is still needed of an old batch is copied out of it at the next forward."""
    helds = starts(tiny_world, room_scene, 3)

    async def steps() -> tuple[Held, weakref.ref[torch.Tensor]]:
        outcomes = await asyncio.gather(*(batcher.step(tiny_world, 8, h, act(1)) for h in helds))
        kept, old = outcomes[1].held, weakref.ref(outcomes[0].held.batch.seed)
        assert kept.shared
        await asyncio.gather(
            *(batcher.step(tiny_world, 8, outcomes[i].held, act(1)) for i in (0, 2))
        )
        return kept, old

    kept, old = asyncio.run(steps())
    assert not kept.shared
    # The computing thread lets go of its last batch a moment after it has answered.
    for _ in range(200):
        gc.collect()
        if old() is None:
            break
        time.sleep(0.05)
    assert old() is None


def test_packed_states_are_smaller_and_the_same(tiny_world: World, room_scene: Any) -> None:
    (held,) = starts(tiny_world, room_scene, 1)
    packed = held.pack()
    assert packed.batch.memory.capacity < held.batch.memory.capacity
    same(packed.get(tiny_world), held.get(tiny_world))
    assert packed.pack() is packed


def test_outcome_is_what_an_environment_tells(
    batcher: Batcher, tiny_world: World, room_scene: Any
) -> None:
    (held,) = starts(tiny_world, room_scene, 1)

    async def step() -> Outcome:
        return await batcher.step(tiny_world, 1, held, act(1))

    outcome = asyncio.run(step())
    after, transition = tiny_world.step(held.get(tiny_world), torch.tensor([1]))
    same(outcome.held.get(tiny_world), after)
    assert torch.equal(outcome.frame.frame().rgb, transition.frame.rgb)
    assert set(outcome.info) == {"pose", "depth", "intrinsics", "memory_coverage", "generated"}
    assert outcome.reward == 0.0 and not outcome.terminated and outcome.batch == 1
