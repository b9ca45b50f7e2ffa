"""Dreams painted ahead: seeds, snapshots, forks and batches hold; painted points give way."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests.helpers.painters import make_tiny_painter
from worldsim.camera import Camera, quantise_depth
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.gaps import close_mask
from worldsim.memory.painted import give_way, integrate_painted, is_painted
from worldsim.memory.points import PointMemory
from worldsim.memory.slots import PointMemoryConfig
from worldsim.memory.splat import hole_view
from worldsim.painting.network import PainterNetwork
from worldsim.painting.painter import NetworkPainter
from worldsim.painting.sampling import PaintConfig
from worldsim.protocols import PainterSpec, PaintInputs
from worldsim.scenes.recorded import RecordedScenes
from worldsim.state import Frame, flatten
from worldsim.world import World
from worldsim.world.engine import EngineConfig
from worldsim.world.paint_ahead import (
    PaintAhead,
    PaintAheadConfig,
    Takes,
    contradicts,
    taken_pixels,
)
from worldsim.world.scene_files import load_scene
from worldsim.world.survey import Surveyor

FORWARD = 1
OPEN = "MAP30-3"


def random_painter(height: int = 32, width: int = 32) -> NetworkPainter:
    """A small painter with random weights and the field of view of freedoom-tiny."""
    torch.manual_seed(0)
    network = PainterNetwork((), dim=32, depth=2, heads=2, pixel=8)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    focal = (42.666667 * width / 64, 51.2 * height / 64)
    spec = PainterSpec(height, width, (*focal, width / 2, height / 2), 4)
    return NetworkPainter(network, spec, PaintConfig(2))


@pytest.fixture(scope="module")
def tiny() -> World:
    return World.from_pretrained("freedoom-tiny", "cpu")


@pytest.fixture(scope="module")
def painted(tiny: World) -> World:
    return tiny.with_painting(random_painter(), PaintAheadConfig(every=3, views=3))


def walk(env: gym.Env, steps: int) -> list[np.ndarray]:
    return [env.step(FORWARD)[0] for _ in range(steps)]


def begin(world: World, seed: int = 0) -> gym.Env:
    env = gym.make("worldsim/FreedoomDream-v0", world=world)
    env.reset(seed=seed, options={"scene": OPEN})
    return env


def points_of(env: gym.Env) -> int:
    memory = env.unwrapped.state.memory
    return int(is_painted(memory).sum())


def test_painted_points_appear_ahead_and_only_if_asked(tiny: World, painted: World) -> None:
    plain, env = begin(tiny), begin(painted)
    walk(plain, 4)
    walk(env, 4)
    assert points_of(plain) == 0
    assert points_of(env) > 100
    assert plain.unwrapped.state.looked is None
    # Looked at steps 0 and 3 of the dream.
    assert int(env.unwrapped.state.looked) == 3


def test_the_same_seed_gives_the_same_painted_dream(painted: World) -> None:
    one, two = walk(begin(painted), 5), walk(begin(painted), 5)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_snapshots_and_forks_continue_bit_for_bit(painted: World, tmp_path: Path) -> None:
    env = begin(painted)
    walk(env, 2)
    env.unwrapped.save(tmp_path / "s")
    fork = env.unwrapped.fork(2)
    future = walk(env, 4)
    other = begin(painted, seed=5)
    other.unwrapped.load(tmp_path / "s")
    assert all(np.array_equal(a, b) for a, b in zip(walk(other, 4), future, strict=True))
    forked = [fork.step(np.full(2, FORWARD))[0] for _ in range(4)]
    # Another batch size rounds differently: frames of a fork are equal to one another.
    assert all(np.array_equal(frames[0], frames[1]) for frames in forked)
    looked = fork.state.looked if hasattr(fork, "state") else fork._state.looked
    assert looked[:2].tolist() == [3, 3]
    assert bool((looked[2:] > 10**9).all())


def test_a_snapshot_of_a_painted_dream_needs_the_painter(
    tiny: World, painted: World, tmp_path: Path
) -> None:
    env = begin(painted)
    env.unwrapped.save(tmp_path / "s")
    with pytest.raises(InvalidInputError):
        begin(tiny).unwrapped.load(tmp_path / "s")
    other = tiny.with_painting(random_painter(), PaintAheadConfig(every=5))
    with pytest.raises(InvalidInputError):
        begin(other).unwrapped.load(tmp_path / "s")


def test_environments_of_a_batch_do_not_affect_each_other(painted: World) -> None:
    envs = gym.make_vec("worldsim/FreedoomDream-v0", num_envs=2, world=painted)
    envs.reset(seed=[3, 4])
    both = [envs.step(np.array([FORWARD, 3]))[0] for _ in range(4)]
    envs.reset(seed=[3, 9])
    again = [envs.step(np.array([FORWARD, FORWARD]))[0] for _ in range(4)]
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(both, again, strict=True))


class CountsCalls:
    """A painter that notes how many places each call paints."""

    def __init__(self, painter: NetworkPainter) -> None:
        self.painter, self.spec = painter, painter.spec
        self.calls: list[int] = []

    def paint(self, inputs: PaintInputs) -> Frame:
        self.calls.append(len(inputs))
        return self.painter.paint(inputs)


@pytest.mark.parametrize("places", [1, 4])
def test_all_places_are_painted_in_one_call_and_do_not_affect_each_other(
    tiny: World, places: int
) -> None:
    painter = random_painter()
    painter.config = PaintConfig(2, places=places)
    counting = CountsCalls(painter)
    world = tiny.with_painting(counting, PaintAheadConfig(views=3))
    assert tiny.folder is not None
    scenes = RecordedScenes(tiny.folder / "scenes", tiny)
    names = [OPEN, scenes.names()[0], scenes.names()[5]]
    state = world.initial([scenes.load(name) for name in names], [3, 4, 5])
    assert world.painting is not None
    found = world.painting.look(state)
    assert found is not None and found.index.tolist() == [0, 1, 2]
    before = flatten(state)
    together = found.apply(state)
    assert all(torch.equal(before[name], value) for name, value in flatten(state).items())
    needy = [int(n) for n in is_painted(together.memory).sum(1) > 0]
    assert counting.calls == [sum(needy)]
    assert sum(needy) >= 2 and found.painted is not None
    assert found.painted.tolist() == [i for i in range(3) if needy[i]]
    for i in range(3):
        alone = world.look(state.select(torch.tensor([i])))
        one, row = flatten(alone), flatten(together.select(torch.tensor([i])))
        assert all(torch.equal(one[name], row[name]) for name in row)
    # Only those that are due look.
    later = dataclasses.replace(together, step=together.step + torch.tensor([4, 1, 0]))
    again = world.painting.look(later)
    assert again is not None and again.index.tolist() == [0]
    assert again.apply(later).looked.tolist() == [4, 0, 0]
    # In place, as engines with buffers do it.
    held = later.clone()
    again.apply(held, in_place=True)
    one, other = flatten(held), flatten(again.apply(later))
    assert all(torch.equal(one[name], other[name]) for name in one)


def frame_of(rgb: int, depth: float, camera: Camera) -> Frame:
    size = camera.height, camera.width
    return Frame(
        torch.full((1, 3, *size), rgb, dtype=torch.uint8),
        quantise_depth(torch.full((1, *size), depth)),
        camera.pose,
    )


@pytest.mark.fast
def test_observations_replace_painted_points() -> None:
    memory = PointMemory(PointMemoryConfig(capacity=1024))
    camera = Camera(torch.eye(4)[None], torch.tensor([[8.0, 8, 4, 4]]), 8, 8)
    data, step = memory.empty(1), torch.tensor([1])
    nothing = torch.zeros(1, 8, 8, dtype=torch.bool)
    left = nothing.clone()
    left[..., :4] = True
    data = memory.integrate(data, frame_of(10, 3.0, camera), camera, step, left)
    shown = memory.render(data, camera).mask
    assert torch.equal(shown, left)
    data = integrate_painted(memory, data, frame_of(200, 3.0, camera), camera, step, shown)
    assert int(is_painted(data).sum()) == 32
    # What was observed is as it was.
    view = memory.render(data, camera)
    assert view.mask.all()
    assert (view.rgb[..., :4] == 10).all()
    assert (view.rgb[..., 4:] == 200).all()
    assert torch.equal(view.source[..., :4], view.source[..., 4:])
    # A dreamed frame from the same place confirms nothing and replaces nothing.
    data = memory.integrate(data, frame_of(90, 3.0, camera), camera, step + 1)
    assert int(is_painted(data).sum()) == 32
    assert (memory.render(data, camera).rgb[..., 4:] == 200).all()
    # A true one does, from further away, too.
    away = camera.pose.clone()
    away[:, 2, 3] = -1.0
    back = dataclasses.replace(camera, pose=away)
    for at, depth in ((back, 4.0), (camera, 3.0)):
        true = frame_of(90, depth, at)
        seen = memory.integrate(give_way(memory, data, true, at), true, at, step + 2)
        assert not is_painted(seen).any()
        left_alone = give_way(memory, data, true, at, torch.tensor([False]))
        assert int(is_painted(left_alone).sum()) == 32
    data = seen
    view = memory.render(data, camera)
    assert (view.rgb[..., :4] == 10).all()
    assert (view.rgb[..., 4:] == 90).all()


@pytest.mark.fast
def test_true_sky_replaces_painted_sky() -> None:
    memory = PointMemory(PointMemoryConfig(capacity=256))
    camera = Camera(torch.eye(4)[None], torch.tensor([[8.0, 8, 4, 4]]), 8, 8)
    step, nothing = torch.tensor([1]), torch.zeros(1, 8, 8, dtype=torch.bool)
    sky = frame_of(200, math.inf, camera)
    data = integrate_painted(memory, memory.empty(1), sky, camera, step, nothing)
    assert int(is_painted(data).sum()) == 64
    true = frame_of(90, math.inf, camera)
    data = memory.integrate(give_way(memory, data, true, camera), true, camera, step)
    assert not is_painted(data).any()
    assert (memory.render(data, camera).rgb == 90).all()


@pytest.mark.fast
def test_painting_does_not_confirm_what_was_painted() -> None:
    memory = PointMemory(PointMemoryConfig(capacity=1024))
    camera = Camera(torch.eye(4)[None], torch.tensor([[8.0, 8, 4, 4]]), 8, 8)
    data, step = memory.empty(1), torch.tensor([1])
    nothing = torch.zeros(1, 8, 8, dtype=torch.bool)
    for _ in range(2):
        data = integrate_painted(memory, data, frame_of(200, 3.0, camera), camera, step, nothing)
    assert int(is_painted(data).sum()) == 64


@pytest.mark.parametrize("whole", [True, False])
def test_views_that_are_covered_are_painted_only_with_the_whole_place(
    tiny_world: World, scenes_folder: Path, whole: bool
) -> None:
    seen: list[torch.Tensor] = []

    class Noting(CountsCalls):
        def paint(self, inputs: PaintInputs) -> Frame:
            seen.append(inputs.pose)
            return super().paint(inputs)

    # At the camera itself, the first view shows what was just observed; the others look aside.
    settings = PaintAheadConfig(distance=0.0, turn=100.0, coverage=0.5, views=3, whole=whole)
    world = tiny_world.with_painting(Noting(make_tiny_painter()), settings)
    assert world.painting is not None
    state = world.initial([load_scene(scenes_folder / "room-6-1")], [4])
    memory, frame = world.memory, state.frame
    assert frame.pose is not None
    camera = Camera(frame.pose, state.intrinsics, 32, 32)
    data = memory.integrate(memory.empty(1), frame, camera, state.step)
    found = world.painting.look(dataclasses.replace(state, memory=data))
    assert found is not None and found.painted is not None
    views = world.painting.survey.cameras(frame)[0]
    assert len(seen) == 1 and torch.equal(seen[0][0], views if whole else views[1:])


@pytest.mark.fast
def test_gaps_count_as_covered_as_much_as_is_said() -> None:
    camera = Camera(torch.eye(4)[None], torch.tensor([[8.0, 8, 4, 4]]), 8, 16)
    mask = torch.zeros(1, 8, 16, dtype=torch.bool)
    # Half of the pixels, and the gaps between them up to column 6.
    mask[..., :8:2] = True
    view, spec = dataclasses.replace(hole_view(camera), mask=mask), random_painter().spec
    memory, known, closed = PointMemory(PointMemoryConfig(capacity=64)), 4 / 16, 7 / 16
    for gaps, covered in ((1.0, closed), (0.5, (known + closed) / 2), (0.0, known)):
        surveyor = Surveyor(memory, spec, 3.0, 0.8, gaps, 1, 50.0)
        assert float(surveyor.covered(view)) == pytest.approx(covered)


@pytest.mark.fast
def test_gaps_of_a_surface_take_its_depth_alone() -> None:
    camera = Camera(torch.eye(4)[None], torch.tensor([[8.0, 8, 4, 4]]), 8, 16)
    view = hole_view(camera)
    mask = view.mask.clone()
    # Every second pixel of the left half shows a surface 5 m away.
    mask[..., :8:2] = True
    code = int(quantise_depth(torch.tensor(5.0)))
    shown = dataclasses.replace(
        view, mask=mask, inverse_depth=view.inverse_depth.masked_fill(mask, code)
    )
    known = close_mask(shown.mask)
    assert known[..., :7].all()
    assert not known[..., 7:].any()
    same, other = (contradicts(shown, frame_of(9, depth, camera)) for depth in (5.2, 1.0))
    assert torch.equal(same, mask)
    assert torch.equal(other, mask | known)


@pytest.mark.fast
def test_which_pixels_of_dreamed_frames_are_taken() -> None:
    camera = Camera(torch.eye(4)[None], torch.tensor([[8.0, 8, 4, 4]]), 8, 16)
    mask = torch.zeros(1, 8, 16, dtype=torch.bool)
    mask[..., :8:2] = True
    view = dataclasses.replace(hole_view(camera), mask=mask)
    # Columns 1, 3 and 5 are gaps of the surface; from column 7 on nothing is known.
    assert taken_pixels(Takes.KNOWN, view).sum() == 8 * 7
    assert taken_pixels(Takes.ALL, view).all()
    assert not taken_pixels(Takes.NOTHING, view).any()


def test_what_is_dreamed_in_holes_does_not_become_known(
    tiny_world: World, scenes_folder: Path
) -> None:
    """Memories after one dreamed frame, and after one true frame, which is taken whole."""
    state = tiny_world.initial([load_scene(scenes_folder / "room-6-1")], [4])
    act, pixels = torch.tensor([FORWARD]), state.frame.rgb[0, 0].numel()
    used: dict[Takes, list[int]] = {}
    for takes in Takes:
        world = tiny_world.with_painting(
            make_tiny_painter(), PaintAheadConfig(coverage=0.0, takes=takes)
        )
        assert world.painting is not None
        empty = dataclasses.replace(state, memory=world.memory.empty(1))
        # Copies that fill up a batch take all, as dreams without painting do.
        batch = world.pad(world.painting.begin(empty), 2)
        after, transition = world.step(batch, act.expand(2))
        used[takes] = (after.memory.kind > 0).sum(1).tolist()
        seen = world.observe(batch, act.expand(2), transition.frame)
        assert (seen.memory.kind > 0).sum(1).tolist() == [pixels, pixels]
    assert used == {
        Takes.ALL: [pixels, pixels], Takes.KNOWN: [0, pixels], Takes.NOTHING: [0, pixels]
    }  # fmt: skip


def test_a_frame_of_which_nothing_is_taken_leaves_the_memory_as_it_is(
    tiny_world: World, scenes_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory's points are not passed over for it, and a pass over them would change nothing."""
    state = tiny_world.initial([load_scene(scenes_folder / "room-6-1")], [4])
    config = PaintAheadConfig(coverage=0.0, takes=Takes.NOTHING)
    world = tiny_world.with_painting(make_tiny_painter(), config)
    assert world.painting is not None
    state, act = world.painting.begin(state), torch.tensor([FORWARD])
    camera, none = world.step(state, act)[1].frame, torch.zeros(1, 32, 32, dtype=torch.bool)
    assert camera.pose is not None
    passed = world.memory.integrate(
        state.memory, camera, Camera(camera.pose, state.intrinsics, 32, 32), state.step, none
    )
    monkeypatch.setattr(PointMemory, "integrate", lambda *_: pytest.fail("all points are passed"))
    after, _ = world.step(state, act)
    for memory in (passed, after.memory):
        assert all(
            torch.equal(a, b)
            for a, b in zip(flatten(memory).values(), flatten(state.memory).values(), strict=True)
        )


@pytest.mark.fast
def test_painted_walls_stand_in_the_way_as_observed_ones_do() -> None:
    """The ego-motion head's map shows a painted wall, and nothing where nothing is known."""
    memory = PointMemory(PointMemoryConfig(capacity=1024))
    # Looks along the world's y axis, level: right is x, down is -z.
    pose = torch.tensor([[[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]]])
    camera = Camera(pose, torch.tensor([[8.0, 8, 4, 4]]), 8, 8)
    empty, step = memory.empty(1), torch.tensor([1])
    nothing = torch.zeros(1, 8, 8, dtype=torch.bool)
    wall = frame_of(99, 1.0, camera)
    painted = integrate_painted(memory, empty, wall, camera, step, nothing)
    observed = memory.integrate(empty, wall, camera, step)
    level, floor = memory.surroundings(painted, pose)[0]
    assert torch.equal(memory.surroundings(observed, pose)[0], torch.stack([level, floor]))
    # 1 m ahead is 12.5 cells above the middle of the map.
    assert level.nonzero()[:, 0].unique().tolist() == [11]
    assert not memory.surroundings(empty, pose).any()


def test_engines_with_graphs_ask_the_painter_for_them(tiny: World, painted: World) -> None:
    class Graphing:
        """Counts how often it is asked."""

        spec = random_painter().spec
        asked = 0

        def paint(self, inputs: PaintInputs) -> Frame:
            raise NotImplementedError

        def with_graphs(self) -> NetworkPainter:
            self.asked += 1
            return random_painter()

    painter = Graphing()
    ahead = PaintAhead(painter, tiny.memory)
    before = ahead.identity
    ahead.use_graphs(False)
    assert painter.asked == 0
    ahead.use_graphs(True)
    assert painter.asked == 1 and ahead.identity == before and ahead.painter is painter
    # The network's painter has none on a CPU, and paints the same.
    env, other = begin(painted), begin(painted.with_engine(EngineConfig(graph=True)))
    for _ in range(4):
        assert np.array_equal(env.step(FORWARD)[0], other.step(FORWARD)[0])


def test_bad_settings_are_named(tiny: World) -> None:
    with pytest.raises(InvalidInputError, match="'behind'"):
        gym.make("worldsim/FreedoomDream-v0", world=tiny, paint="behind")
    with pytest.raises(InvalidInputError, match="nothing alone"):
        gym.make("worldsim/FreedoomDream-v0", world=tiny, painter=random_painter())
    with pytest.raises(InvalidInputError, match="views = 5"):
        tiny.with_painting(random_painter(), PaintAheadConfig(views=5))
    with pytest.raises(InvalidInputError, match="takes = 'some'"):
        PaintAheadConfig(takes="some")  # type: ignore[arg-type]
    with pytest.raises(MissingGeometryError, match="point memory"):
        tiny.without_memory().with_painting(random_painter())
    with pytest.raises(InvalidInputError, match="no painter"):
        tiny.with_painting("freedoom-painter")  # type: ignore[arg-type]
    assert tiny.with_painting(None).painting is None


def test_a_state_of_a_plain_world_is_not_painted(tiny: World, painted: World) -> None:
    env = begin(tiny)
    state = env.unwrapped.state
    act = torch.tensor([FORWARD])
    one, two = tiny.step(state, act)[0], painted.step(state, act)[0]
    a, b = flatten(one), flatten(two)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert dataclasses.is_dataclass(two)
