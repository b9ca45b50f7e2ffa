"""Painted views in the memory of training walks: seeds, no look into the future but through them,
observations replace them, and forgiven pixels have no gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.helpers.painters import make_tiny_painter
from tests.helpers.recordings import SIZE, room
from tests.helpers.training import CLEAN, CPU, network, train_config, windows
from worldsim.camera import Camera
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.painted import is_painted
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.painting.painter import NetworkPainter
from worldsim.protocols import Painter, PainterSpec, PaintInputs
from worldsim.state import Frame
from worldsim.training import rollout
from worldsim.training.buffer import FrameBuffer, _mirror
from worldsim.training.corruption import OwnFrames
from worldsim.training.loss import LossConfig, TrainingLoss
from worldsim.training.painted import PaintedConfig, PaintedViews, PaintedWalks
from worldsim.training.rollout import mark_invented, unpack_invented, unpack_view
from worldsim.training.trainer import Trainer
from worldsim.world.heads import OutcomeHead
from worldsim.world.paint_ahead import Takes

ALWAYS = PaintedConfig(
    share=1.0, every=2, ahead=(2, 4), coverage=1.0, num_inference_steps=1, since=(0, 0)
)


class Counting:
    """A painter with random weights that counts its calls and keeps its inputs."""

    def __init__(self, spec: PainterSpec) -> None:
        self.inner = make_tiny_painter(views=1)
        self.inner._spec = dataclasses.replace(spec, attributes=self.inner.spec.attributes)
        self.painted: list[PaintInputs] = []
        self.redrawn: list[Frame] = []

    @property
    def spec(self) -> PainterSpec:
        return self.inner.spec

    def paint(self, inputs: PaintInputs) -> Frame:
        self.painted.append(inputs)
        return self.inner.paint(inputs)

    def redraw(self, inputs: PaintInputs, frames: Frame, level: Tensor) -> Frame:
        assert bool(((level >= 0.3) & (level <= 0.6)).all())
        self.redrawn.append(frames)
        return self.inner.redraw(inputs, frames, level)


def painter_for(shard: dict) -> Counting:
    """A painter of the recording's camera."""
    return Counting(PainterSpec(SIZE, SIZE, tuple(shard["intrinsics"].tolist()), 1))


def remembered(
    shard: dict,
    config: PaintedConfig,
    painter: Painter | None = None,
    own: bool = False,
    graphs: bool = False,
) -> FrameBuffer:
    memory = PointMemory(PointMemoryConfig(capacity=4096))
    painter = painter or painter_for(shard)
    painted = PaintedViews(painter, memory, config) if config.share else None
    perturb = dataclasses.replace(CLEAN, own=1.0 if own else 0.0)
    buffer = FrameBuffer(
        1000, 6, memory, CPU, perturb, episodes_at_once=4, graphs=graphs, painted=painted
    )
    buffer.add(shard)
    buffer.remember(0, OwnFrames(network(0, height=SIZE, width=SIZE)) if own else None)
    return buffer


def masks(buffer: FrameBuffer, frames: int) -> Tensor:
    return unpack_view(buffer._data["view"][:frames]).mask


def test_without_painted_walks_nothing_changes() -> None:
    """No painter is called, and all bits are those of a buffer without painted views."""
    shard = room(14, 12)
    painter = painter_for(shard)
    memory = PointMemory(PointMemoryConfig(capacity=4096))
    plainly = FrameBuffer(1000, 6, memory, CPU, CLEAN, episodes_at_once=4)
    plainly.add(shard)
    plainly.remember(0)
    none = PaintedViews(painter, memory, PaintedConfig(share=0.0))
    buffer = FrameBuffer(1000, 6, memory, CPU, CLEAN, episodes_at_once=4, painted=none)
    buffer.add(shard)
    buffer.remember(0)
    assert not painter.painted and not painter.redrawn
    assert all(torch.equal(plainly._data[k], v) for k, v in buffer._data.items())


def test_painted_walks_are_a_function_of_the_seed() -> None:
    shard = room(16, 16, 16)
    some = dataclasses.replace(ALWAYS, share=0.6)
    one, two = (remembered(shard, some) for _ in range(2))
    assert torch.equal(one._data["view"], two._data["view"])
    without = remembered(shard, PaintedConfig())
    differs = (one._data["view"] != without._data["view"]).flatten(1).any(1)[:48]
    # Three of five walks, in whole walks; and never the map for the ego-motion head.
    by_walk = differs.unflatten(0, (3, 16)).any(1)
    assert bool(by_walk.any())
    assert torch.equal(one._data["around"], without._data["around"])


def test_redrawn_views_are_true_frames_ahead() -> None:
    """What lies ahead enters the memory through redrawn views, and by no other way."""
    shard = room(16, 16)
    painter = painter_for(shard)
    buffer = remembered(shard, dataclasses.replace(ALWAYS, invented=0.0), painter)
    assert painter.redrawn and not painter.painted
    true = torch.from_numpy(shard["rgb"]).permute(0, 3, 1, 2)
    for frames in painter.redrawn:
        assert all(bool((frame == true).flatten(1).all(1).any()) for frame in frames.rgb)
    # More is known than without them, and their pixels are marked.
    never = dataclasses.replace(ALWAYS, coverage=0.0)
    assert masks(buffer, 32).sum() > masks(remembered(shard, never), 32).sum()
    assert bool(unpack_invented(buffer._data["view"]).any())


def test_invented_views_never_see_the_truth() -> None:
    """The frames after the looks change, their cameras do not: the paintings stay as they are."""
    shard, other = room(16, 16, 16), room(16, 16, 16)
    other["rgb"][45:] = 255 - other["rgb"][45:]
    config = dataclasses.replace(ALWAYS, invented=1.0, every=4, ahead=(6, 6))
    views = []
    for one in (shard, other):
        painter = painter_for(one)
        buffer = remembered(one, config, painter)
        # Looks after frames 0, 4 and 8 at most: no frame lies 6 ahead of frame 12.
        assert 1 <= len(painter.painted) <= 3 and not painter.redrawn
        views.append(buffer._data["view"][:46])
    assert torch.equal(*views)
    assert bool(unpack_invented(views[0]).any())


def test_painted_points_stay_while_later_frames_see_them() -> None:
    """A walk that stands still is painted where it stands; its frames confirm nothing."""
    shard = room(12)
    for name in ("rgb", "pose", "inverse_depth"):
        shard[name][:] = shard[name][:1]
    memory = PointMemory(PointMemoryConfig(capacity=4096))
    painted = PaintedViews(painter_for(shard), memory, dataclasses.replace(ALWAYS, invented=1.0))
    generator = torch.Generator().manual_seed(0)
    walks = painted.walks(1, generator)
    frame = Frame(
        torch.from_numpy(shard["rgb"][:1]).permute(0, 3, 1, 2),
        torch.from_numpy(shard["inverse_depth"][:1].astype("int32")),
        torch.from_numpy(shard["pose"][:1]),
    )
    data = painted.paint(
        memory.empty(1), walks, 0, torch.tensor([11]), lambda rows, ahead: frame, generator
    )
    marked = int(is_painted(data).sum())
    assert marked > 100
    camera = Camera(frame.pose, torch.from_numpy(shard["intrinsics"])[None], SIZE, SIZE)
    before = float(painted.shown_pixels(data, walks, camera).float().mean())
    assert before > 0.2
    # The painted frame itself, seen again.
    view = memory.render(data, camera)
    again = Frame(view.rgb, view.inverse_depth, frame.pose)
    seen = memory.integrate(data, again, camera, torch.tensor([1]), view.mask)
    assert int(is_painted(seen).sum()) == marked
    after = float(painted.shown_pixels(seen, walks, camera).float().mean())
    assert painted.shown_share() == pytest.approx((before + after) / 2)


def test_new_places_are_known_from_paintings_alone() -> None:
    """Without paintings, nothing enters the memory after the frame from which they are due."""
    shard = room(16, 16)
    never = dataclasses.replace(ALWAYS, coverage=0.0, takes=Takes.NOTHING, since=(3, 3))
    buffer, usual = remembered(shard, never), remembered(shard, PaintedConfig())
    found, expected = (masks(one, 32).unflatten(0, (2, 16)) for one in (buffer, usual))
    assert torch.equal(found[:, :5], expected[:, :5])
    assert found[:, 8:].sum() < expected[:, 8:].sum()
    walks = PaintedWalks(
        torch.tensor([0, 2]), torch.tensor([3, 5]), torch.zeros(2).bool(), torch.zeros(2).long()
    )
    assert walks.closed(4, 5).tolist() == [True, False, False, False]
    assert walks.closed(4, 6).tolist() == [True, False, True, False]


def test_dreamed_walks_are_painted_too() -> None:
    buffer = remembered(room(16, 16), ALWAYS, own=True)
    assert bool(buffer._data["dreamed"].any())
    batch = buffer.sample(8, torch.Generator().manual_seed(0))
    assert batch.invented is not None and batch.invented.shape == batch.view[:, :, 0].shape


def test_painted_walks_are_the_same_on_buffers_of_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is painted between two replayed steps enters the buffers that the next one reads."""

    def capture_graph(run: Callable[[], object], device: torch.device) -> Callable[[], object]:
        run()
        return run

    shard = room(12, 12, 12)
    for own in (False, True):
        expected = remembered(shard, ALWAYS, own=own)._data
        with monkeypatch.context() as patch:
            patch.setattr(rollout, "capture_graph", capture_graph)
            found = remembered(shard, ALWAYS, own=own, graphs=True)._data
        assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_marks_of_invented_pixels_leave_the_view_alone() -> None:
    packed = torch.randint(0, 2, (3, 8, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    chosen = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    marked = mark_invented(packed, torch.tensor([1]), chosen)
    assert torch.equal(unpack_invented(marked)[1], chosen[0])
    assert not bool(unpack_invented(marked)[[0, 2]].any())
    assert torch.equal(unpack_view(marked).mask, unpack_view(packed).mask)


def test_the_loss_forgives_invented_pixels_that_contradict_the_truth() -> None:
    """The left half of the view is invented and wrong, the right half invented and true."""
    batch = windows()
    view = batch.view.clone()
    view[:, :, 4] = 1.0
    view[:, :, :4] = batch.x
    left = torch.zeros_like(view[:, :, 0], dtype=torch.bool)
    left[..., : SIZE // 2] = True
    view[:, :, :3] = torch.where(left[:, :, None], -batch.x[:, :, :3].sign(), view[:, :, :3])
    loss = TrainingLoss(network(0), None, OutcomeHead(dim=32), LossConfig())
    for invented, forgiven in ((torch.ones_like(left), True), (torch.zeros_like(left), False)):
        marked = dataclasses.replace(batch, view=view, invented=invented)
        guess = torch.zeros_like(batch.x).requires_grad_()
        (kept,) = loss._forgiven([guess], batch.x, marked)
        (kept - batch.x).square().sum().backward()
        gradient = guess.grad.abs().sum(2)
        inner = gradient[..., 2 : SIZE // 2 - 3]
        assert bool((inner == 0).all()) == forgiven
        assert bool((gradient[..., SIZE // 2 + 3 :] > 0).any())
    mirrored = _mirror(
        dataclasses.replace(batch, invented=left),
        torch.ones(len(left), dtype=torch.bool),
        torch.arange(7),
    )
    assert torch.equal(mirrored.invented, left.flip(-1))


def test_what_does_not_fit_is_refused(rooms: Path, tmp_path: Path) -> None:
    shard = room(8)
    memory = PointMemory(PointMemoryConfig(capacity=64))
    painter = painter_for(shard)
    with pytest.raises(MissingGeometryError, match="share 0"):
        PaintedViews(painter, None, ALWAYS)

    class NoRedraw:
        spec = painter.spec

        def paint(self, inputs: PaintInputs) -> Frame:
            return painter.paint(inputs)

    with pytest.raises(InvalidInputError, match="cannot redraw"):
        PaintedViews(NoRedraw(), memory, ALWAYS)
    with pytest.raises(InvalidInputError, match="level"):
        PaintedConfig(level=(0.7, 0.4))
    with pytest.raises(InvalidInputError, match="ahead"):
        PaintedConfig(ahead=(5, 4))
    with pytest.raises(InvalidInputError, match="since"):
        PaintedConfig(since=(5, 4))
    wrong = make_tiny_painter()
    with pytest.raises(InvalidInputError, match="recording's camera"):
        remembered(shard, ALWAYS, wrong)
    with pytest.raises(InvalidInputError, match="needs a painter"):
        Trainer(train_config(rooms, tmp_path / "out", painted=ALWAYS))


def test_training_with_painted_walks(rooms: Path, tmp_path: Path) -> None:
    settings = train_config(rooms, tmp_path / "out", painted=ALWAYS)
    intrinsics = tuple(Trainer(train_config(rooms, tmp_path / "o")).dataset.info.intrinsics)
    painter = make_tiny_painter(views=1)
    painter._spec = PainterSpec(32, 32, intrinsics, 1, painter.spec.attributes)
    assert isinstance(painter, NetworkPainter)
    trainer = Trainer(settings, painter)
    trainer.wait_for_data()
    losses = trainer.train_step()
    assert bool(torch.isfinite(losses["loss"]))
    assert losses["windows"].invented is not None
