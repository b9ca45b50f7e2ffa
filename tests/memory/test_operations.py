"""The point memory's passes: what is left out of them changes nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from worldsim.camera import Camera
from worldsim.memory.operations import Passes
from worldsim.memory.points import PointMemory, PointMemoryConfig, Points
from worldsim.memory.retrieval import RetrievalMemory
from worldsim.memory.slots import places
from worldsim.memory.splat import in_sight, map_around, on_map, splat
from worldsim.protocols import EngineMemory
from worldsim.state import Frame, flatten

SIZE = 16


def scattered(b: int = 3, n: int = 500, seed: int = 0) -> tuple[PointMemory, Points, Camera]:
    """Points all around, an eighth of them directions, some slots unused; the rows' cameras look
    elsewhere."""
    memory = PointMemory(PointMemoryConfig(capacity=n))
    random = torch.Generator().manual_seed(seed)
    position = 2.5 * torch.randn(b, n, 3, generator=random)
    colour = torch.randint(0, 256, (b, n, 3), generator=random).to(torch.uint8)
    data = memory.from_points(position, colour, distance=3.0)
    kind = torch.tensor([0, 1, 1, 1, 1, 1, 1, 2], dtype=torch.uint8)[
        torch.randint(0, 8, (b, n), generator=random)
    ]
    pose = torch.eye(4).repeat(b, 1, 1)
    for row in range(b):
        c, s = torch.tensor(0.7 * row).cos(), torch.tensor(0.7 * row).sin()
        pose[row, :3, :3] = torch.stack(
            [torch.stack([c, 0 * c, s]), torch.tensor([0.0, 1.0, 0.0]), torch.stack([-s, 0 * c, c])]
        )
        pose[row, 0, 3] = 0.1 * row
    camera = Camera(pose, torch.tensor([[8.0, 8.0, 8.0, 8.0]]).repeat(b, 1), SIZE, SIZE)
    return memory, dataclasses.replace(data, kind=kind), camera


def seen(b: int, pose: torch.Tensor) -> Frame:
    """Frames of a wall at 2 m with some sky above it."""
    code = torch.full((b, SIZE, SIZE), int(65535 * 0.125 / 2.0), dtype=torch.int32)
    code[:, :3] = 0
    return Frame(torch.full((b, 3, SIZE, SIZE), 90, dtype=torch.uint8), code, pose)


def everything(memory: PointMemory) -> PointMemory:
    """The same memory that looks at all slots, as it does where it cannot pick them."""

    def slot_of_all(position: torch.Tensor, kind: torch.Tensor, *_: object) -> torch.Tensor:
        return torch.ones_like(kind, dtype=torch.bool)

    return memory.with_passes(Passes(in_sight=slot_of_all, on_map=slot_of_all))


def test_places_by_hand() -> None:
    assert places(torch.tensor([[False, True, False, True, True]])).tolist() == [[1, 3, 4]]
    assert places(torch.zeros(1, 5, dtype=torch.bool)).tolist() == [[0]]
    rows = torch.tensor(
        [[False, False, True, True], [False, False, False, False], [True, False, False, False]]
    )
    assert places(rows).tolist() == [[2, 3], [0, 0], [0, 0]]


def test_in_sight_is_what_the_splat_calls_visible() -> None:
    _, data, camera = scattered()
    visible = splat(data.position, data.kind, camera).visible
    assert torch.equal(
        in_sight(data.position, data.kind, camera.pose, camera.intrinsics, SIZE, SIZE),
        visible.to(torch.uint8),
    )
    assert int(visible.sum(1).min()) > 20 and int(visible.sum(1).max()) < 250


def test_what_is_off_the_map_draws_nothing_there() -> None:
    _, data, camera = scattered()
    chosen = on_map(data.position, data.kind, camera.pose)
    whole = map_around(data.position, data.kind, camera.pose)
    assert torch.equal(map_around(data.position, data.kind * chosen, camera.pose), whole)
    assert whole.any() and not chosen.all()


@pytest.mark.parametrize("b", [1, 3])
def test_picking_slots_changes_no_bit(b: int) -> None:
    memory, data, camera = scattered(b)
    whole, frame, step = everything(memory), seen(b, camera.pose), torch.full((b,), 7)
    known = torch.ones(b, SIZE, SIZE, dtype=torch.bool)
    known[:, :, :5] = False
    for mask in (None, known):
        found = (rules.integrate(data, frame, camera, step, mask) for rules in (memory, whole))
        assert all(
            torch.equal(x, y) for x, y in zip(*(flatten(f).values() for f in found), strict=True)
        )
    views = (flatten(rules.render(data, camera)).values() for rules in (memory, whole))
    assert all(torch.equal(x, y) for x, y in zip(*views, strict=True))
    assert torch.equal(
        memory.surroundings(data, camera.pose), whole.surroundings(data, camera.pose)
    )


def test_what_was_picked_for_a_view_serves_no_changed_memory() -> None:
    memory, data, camera = scattered(1)
    frame, step = seen(1, camera.pose), torch.tensor([7])
    memory.render(data, camera)
    data.kind[:] = 0
    data.position[:, 2] = 2.0
    data.kind[:, 100:] = 1
    found, expected = (
        rules.integrate(data, frame, camera, step) for rules in (memory, PointMemory(memory.config))
    )
    assert all(
        torch.equal(x, y)
        for x, y in zip(flatten(found).values(), flatten(expected).values(), strict=True)
    )


def test_other_memories_have_no_passes() -> None:
    assert isinstance(PointMemory(), EngineMemory)
    assert not isinstance(RetrievalMemory(), EngineMemory)
