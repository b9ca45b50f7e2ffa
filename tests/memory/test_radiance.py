"""The radiance field: how well it shows a known room, what it keeps, when points are shown instead,
and worlds that use it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from worldsim.camera import Camera, quantise_depth
from worldsim.envs.tiny_room import textured_room, textured_room_walk
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.evaluation.metrics import psnr
from worldsim.memory import (
    PointMemory,
    PointMemoryConfig,
    RadianceField,
    RadianceMemory,
    RadianceMemoryConfig,
)
from worldsim.memory.fitting import FitConfig
from worldsim.state import Frame, MemoryView, SceneStart, flatten, map_tensors
from worldsim.world import World
from worldsim.world.snapshots import Snapshot, load_snapshot, save_snapshot

SIZE = 16


def rows(record: Any, start: int, stop: int | None = None, step: int = 1) -> Any:
    return map_tensors(lambda x: x[start:stop:step], record)


def walked(memory: RadianceMemory, frames: Frame, camera: Camera) -> RadianceField:
    data = memory.empty(1)
    for i in range(len(frames.rgb)):
        data = memory.integrate(
            data, rows(frames, i, i + 1), rows(camera, i, i + 1), torch.tensor([i])
        )
    return data


@pytest.mark.slow
def test_held_out_views_of_a_known_room() -> None:
    """Views between the frames of a walk: at least 23 dB, better than points (even where those
    know) and than without them."""
    camera = textured_room_walk(64)
    frames = textured_room(camera)
    memory = RadianceMemory(PointMemory(PointMemoryConfig(capacity=131072)))
    data = walked(memory, rows(frames, 0, None, 2), rows(camera, 0, None, 2))
    truth, held_out = rows(frames, 1, None, 4), rows(camera, 1, None, 4)

    def views(render: Any, data: Any) -> list[MemoryView]:
        return [render(data, rows(held_out, i, i + 1)) for i in range(len(truth.rgb))]

    def whole(found: list[MemoryView]) -> float:
        return float(psnr(torch.cat([v.rgb for v in found]), truth.rgb).mean())

    points = views(memory.points.render, data.points)
    known = [
        psnr(v.rgb[0][:, v.mask[0]][..., None], truth.rgb[i][:, v.mask[0]][..., None])
        for i, v in enumerate(points)
    ]
    fitted = views(memory.render, memory.fit(data, iterations=100))
    noise = views(memory.render, memory.fit(data, iterations=100, from_points=False))
    assert whole(fitted) > 25.0
    assert whole(points) < 20.0 and float(torch.stack(known).mean()) < whole(fitted) - 1.0
    assert whole(noise) < whole(fitted) - 1.0
    for i, view in enumerate(fitted):
        both = view.mask[0] & torch.isfinite(truth.depth[i]) & torch.isfinite(view.depth[0])
        error = ((view.depth[0] - truth.depth[i]).abs() / truth.depth[i])[both]
        assert view.coverage > 0.97 and float(error.median()) < 0.02
        sky = torch.isinf(view.depth[0]) & view.mask[0]
        assert float((sky != torch.isinf(truth.depth[i])).float().mean()) < 0.03


def wall(
    depth: float, colour: int = 100, x: float = 0.0, turn: float = 0.0
) -> tuple[Frame, Camera]:
    """A wall at ``depth`` that fills the view of a camera at (x, 0, 0), turned about y."""
    pose = torch.eye(4)[None].clone()
    angle = torch.tensor(turn)
    pose[0, 0, 0] = pose[0, 2, 2] = angle.cos()
    pose[0, 0, 2], pose[0, 2, 0] = angle.sin(), -angle.sin()
    pose[0, 0, 3] = x
    rgb = torch.full((1, 3, SIZE, SIZE), colour, dtype=torch.uint8)
    frame = Frame(rgb, quantise_depth(torch.full((1, SIZE, SIZE), depth)), pose)
    return frame, Camera(pose, torch.full((1, 4), SIZE / 2), SIZE, SIZE)


def small(**changes: Any) -> RadianceMemory:
    values: dict[str, Any] = {
        "height": SIZE,
        "width": SIZE,
        "shape": (32, 32, 16),
        "keyframes": 3,
        "fit": FitConfig(rays=256),
    }
    return RadianceMemory(
        PointMemory(PointMemoryConfig(capacity=2048)), RadianceMemoryConfig(**{**values, **changes})
    )


def test_frames_are_kept_where_the_view_is_new() -> None:
    memory = small(apart_m=0.25, apart_deg=12.0)
    data = memory.empty(1)
    kept = []
    # A step too short, one long enough, back, a turn of 9 degrees, one of 17 in all, and far enough
    # again: the first makes room.
    for i, (x, turn) in enumerate(
        [(0.0, 0.0), (0.2, 0.0), (0.3, 0.0), (0.0, 0.0), (0.3, 0.15), (0.3, 0.3), (0.9, 0.3)]
    ):
        frame, camera = wall(2.0, colour=10 * i, x=x, turn=turn)
        data = memory.integrate(data, frame, camera, torch.tensor([i]))
        kept.append(int(data.frames.count))
    assert (
        kept == [1, 1, 2, 2, 2, 3, 4] and data.step.tolist() == [6] and data.fitted.tolist() == [-1]
    )
    assert data.frames.rgb[0, :, 0, 0, 0].tolist() == [60, 20, 50]
    assert data.frames.pose[0, 0, 0, 3] == pytest.approx(0.9)


def test_the_same_seed_gives_the_same_field() -> None:
    memory = small()
    data = memory.integrate(
        memory.empty(2), *pair(wall(2.0), wall(3.0, colour=50)), torch.tensor([0, 4])
    )
    with torch.no_grad():
        first, again, other = (memory.fit(data, 5, seed=seed) for seed in (1, 1, 2))
    assert all(
        torch.equal(x, y)
        for x, y in zip(flatten(first).values(), flatten(again).values(), strict=True)
    )
    assert not torch.equal(first.voxels.density, other.voxels.density)
    assert first.fitted.tolist() == [0, 4] and memory.without_field(first).fitted.tolist() == [
        -1,
        -1,
    ]
    assert not any(x.requires_grad for x in flatten(first).values())


def pair(one: tuple[Frame, Camera], two: tuple[Frame, Camera]) -> tuple[Frame, Camera]:
    (a, b), (c, d) = one, two
    frame = map_tensors(lambda x, y: torch.cat([x, y]), a, c)
    return frame, Camera(
        torch.cat([b.pose, d.pose]), torch.cat([b.intrinsics, d.intrinsics]), SIZE, SIZE
    )


def test_rows_without_frames_have_no_field() -> None:
    memory = small()
    data = memory.integrate(memory.empty(2), *pair(wall(2.0), wall(2.0)), torch.tensor([0, 0]))
    count = data.frames.count.clone()
    count[1] = 0
    data = dataclasses.replace(data, frames=dataclasses.replace(data.frames, count=count))
    assert memory.fit(data, 2).fitted.tolist() == [0, -1]


def with_box(colour: int = 250) -> tuple[Frame, Camera]:
    """The wall at 4 m with a box at 2 m before it, in rows and columns 4 to 11."""
    frame, camera = wall(4.0)
    assert frame.inverse_depth is not None
    code, rgb = frame.inverse_depth.clone(), frame.rgb.clone()
    code[:, 4:12, 4:12] = int(quantise_depth(torch.tensor(2.0)))
    rgb[:, :, 4:12, 4:12] = colour
    return Frame(rgb, code, frame.pose), camera


def test_what_has_moved_since_the_fit_is_not_shown() -> None:
    memory = small()
    (boxed, camera), (bare, _) = with_box(), wall(4.0)
    data = memory.fit(memory.integrate(memory.empty(1), boxed, camera, torch.tensor([0])), 40)
    view = memory.render(data, camera)
    assert (
        view.mask.all()
        and float(view.depth[0, 8, 8]) == pytest.approx(2.0, abs=0.2)
        and view.rgb[0, 0, 8, 8] > 230
    )
    after = memory.integrate(data, bare, camera, torch.tensor([1]))
    view = memory.render(after, camera)
    assert (
        float(view.depth[0, 5:11, 5:11].min()) > 3.5 and int(view.rgb[0, :, 5:11, 5:11].max()) < 150
    )
    # The kept frame still shows the box, but the points do not bear it out any more: the next fit
    # leaves it out.
    assert after.frames.count.tolist() == [1]
    view = memory.render(memory.fit(after, 40), camera)
    assert float(view.depth[0].min()) > 3.5


def test_what_is_new_since_the_fit_is_shown() -> None:
    memory = small()
    (boxed, camera), (bare, _) = with_box(), wall(4.0)
    data = memory.fit(memory.integrate(memory.empty(1), bare, camera, torch.tensor([0])), 20)
    view = memory.render(memory.integrate(data, boxed, camera, torch.tensor([1])), camera)
    inside = view.depth[0, 4:12, 4:12]
    assert (
        float(inside.max()) < 2.1
        and (view.rgb[0, :, 4:12, 4:12] == 250).all()
        and float(view.depth[0, 0, 0]) > 3.5
    )


def test_adopting_a_fit_keeps_newer_points() -> None:
    memory = small()
    (boxed, camera), (bare, _) = with_box(), wall(4.0)
    old = memory.integrate(memory.empty(1), bare, camera, torch.tensor([0]))
    new = memory.integrate(old, boxed, camera, torch.tensor([1]))
    adopted = memory.adopt(new, memory.fit(old, 20))
    assert adopted.fitted.tolist() == [0] and adopted.step.tolist() == [1]
    assert (memory.render(adopted, camera).rgb[0, :, 4:12, 4:12] == 250).all()


def test_density_is_high_in_walls_and_nothing_without_a_field() -> None:
    # Voxels as wide as the pixels on the wall: finer ones would leave gaps between them.
    memory = small(shape=(17, 17, 8))
    data = memory.integrate(memory.empty(1), *wall(2.0), torch.tensor([0]))
    # Where a pixel saw the wall, half way to it, behind the camera.
    place = torch.tensor([[[0.125, 0.125, 2.0], [0.0, 0.0, 1.0], [0.0, 0.0, -3.0]]])
    assert memory.density(data, place).tolist() == [[0.0, 0.0, 0.0]]
    solid, air, outside = memory.density(memory.fit(data, 40), place)[0].tolist()
    assert solid > 10.0 and air < 0.2 and outside == 0.0
    with pytest.raises(InvalidInputError, match=r"\(1, n, 3\)"):
        memory.density(data, place[0])


def test_a_place_of_nothing_but_sky() -> None:
    memory = small()
    frame, camera = wall(float("inf"), colour=200)
    fitted = memory.fit(memory.integrate(memory.empty(1), frame, camera, torch.tensor([0])), 3)
    view = memory.render(fitted, camera)
    assert view.mask.all() and (view.inverse_depth == 0).all() and (view.rgb == 200).all()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"height": 0}, "height = 0"),
        ({"keyframes": 0}, "keyframes = 0"),
        ({"shape": (96, 2, 96)}, "numbers of 4 to"),
        ({"longest_m": 0.0}, "longest_m = 0"),
    ],
)
def test_clear_errors_of_the_config(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidInputError, match=complaint):
        RadianceMemoryConfig(**change)


def test_clear_errors() -> None:
    memory = small(width=8)
    frame, camera = wall(2.0)
    with pytest.raises(InvalidInputError, match=r"\(16, 16\) do not fit a radiance memory of 16x8"):
        memory.integrate(memory.empty(1), frame, camera, torch.tensor([0]))
    with pytest.raises(MissingGeometryError, match="NoMemory"):
        memory.integrate(memory.empty(1), Frame(frame.rgb), camera, torch.tensor([0]))
    with pytest.raises(InvalidInputError, match="0 iterations"):
        memory.fit(memory.empty(1), 0)


def radiance_world(world: World) -> World:
    points = PointMemory(PointMemoryConfig(capacity=4096))
    return world.with_memory(
        RadianceMemory(points, RadianceMemoryConfig(32, 32, shape=(16, 16, 8), keyframes=4))
    )


def steps(world: World, state: Any, count: int) -> Tensor:
    shown = []
    for i in range(count):
        state, transition = world.step(state, torch.full((len(state),), 1 + i % 4))
        shown.append(transition.frame.rgb)
    return torch.stack(shown)


def test_worlds_step_fork_and_come_back_from_disk(
    tiny_world: World, room_scene: SceneStart, tmp_path: Path
) -> None:
    world = radiance_world(tiny_world)
    state = world.initial([room_scene, room_scene], [1, 2])
    for _ in range(3):
        state, transition = world.step(state, torch.tensor([1, 3]))
    assert transition.coverage.min() > 0 and state.memory.frames.count.min() > 0
    # Before a fit the world is the one with points alone.
    plain = tiny_world.with_memory(PointMemory(PointMemoryConfig(capacity=4096)))
    assert torch.equal(
        steps(world, world.initial([room_scene], [1]), 3),
        steps(plain, plain.initial([room_scene], [1]), 3),
    )
    memory = world.memory
    assert isinstance(memory, RadianceMemory)
    state = dataclasses.replace(state, memory=memory.fit(state.memory, 3))
    future = steps(world, state, 2)
    assert torch.equal(steps(world, state.select(torch.tensor([1, 1])), 2)[:, 0], future[:, 1])
    padded = world.pad(state, 8)
    save_snapshot(Snapshot(padded, [0, 0], [False, False], ()), world, tmp_path / "s")  # type: ignore[arg-type]
    loaded = load_snapshot(tmp_path / "s", world).state
    assert all(
        torch.equal(x, y)
        for x, y in zip(flatten(padded).values(), flatten(loaded).values(), strict=True)
    )


def test_worlds_start_from_scenes_that_hold_points(
    tiny_world: World, room_scene: SceneStart
) -> None:
    points = PointMemory(PointMemoryConfig(capacity=64))
    held = points.from_points(torch.rand(1, 9, 3), torch.zeros(1, 9, 3, dtype=torch.uint8))
    world = radiance_world(tiny_world)
    state = world.initial([dataclasses.replace(room_scene, memory=points.trim(held))], [0])
    assert bool((state.memory.points.position[0, :, :9] == held.position[0, :, :9]).any())
