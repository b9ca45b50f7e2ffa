"""Worlds without memory look at the frames before: the same in training and at use, and what stays
as it was costs nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.training import SIZE, B, T, windows
from worldsim.data.dataset import EpisodeDataset
from worldsim.data.starts import scene_at
from worldsim.diffusion.denoiser import add_noise, frame_to_channels
from worldsim.diffusion.dynamics import DiffusionDynamics, DynamicsConfig, last_frames
from worldsim.diffusion.network import SpaceTimeTransformer
from worldsim.errors import InvalidInputError
from worldsim.state import Frame
from worldsim.training.config import TrainConfig
from worldsim.training.corruption import OwnFrames
from worldsim.training.distil import AGREED
from worldsim.training.distil_loss import DistilLoss, DistilLossConfig
from worldsim.training.loss import LossConfig, TrainingLoss
from worldsim.training.rollout import Given, Lockstep
from worldsim.training.trainer import Trainer
from worldsim.world import World
from worldsim.world.heads import OutcomeHead
from worldsim.world.snapshots import fingerprint

SETTINGS: dict[str, Any] = {
    "preset": "debug",
    "steps": 2,
    "batch_size": 2,
    "window": 12,
    "warmup": 1,
    "mixed_precision": "no",
}


def looking_back(fold: int = 1, count: int = 1, **config: float) -> TrainingLoss:
    torch.manual_seed(0)
    network = SpaceTimeTransformer(
        height=SIZE,
        width=SIZE,
        channels=3,
        view_channels=4 * count,
        last_frames=count,
        actions=7,
        dim=32,
        depth=2,
        heads=2,
        levels=(8, 16),
        window=4,
        fold=fold,
    )
    return TrainingLoss(network, None, OutcomeHead(dim=32, hidden=8), LossConfig(**config))


def awake(objective: TrainingLoss) -> TrainingLoss:
    """With weights in place of the zeros that layers begin with."""
    with torch.no_grad():
        for weight in objective.network.parameters():
            if not weight.any():
                weight.normal_(0.0, 0.1)
    return objective


def shown(objective: TrainingLoss, source: Tensor, hidden_before: Tensor) -> Tensor:
    found = objective._last(source, hidden_before, torch.Generator().manual_seed(0))
    assert found is not None and found.shape == (
        B,
        T,
        4 * objective.network.config.last_frames,
        SIZE,
        SIZE,
    )
    return found


def test_each_frame_sees_the_one_before() -> None:
    """By hand: the first frame of a window sees nothing, nor does the first after a reset; no frame
    sees itself."""
    source = windows(geometry=False).x
    found = shown(looking_back(last_frame_sigma=0.0), source, torch.tensor([0, 5]))
    assert not found[:, 0].any() and not found[1, :6].any()
    for row, first in ((0, 1), (1, 6)):
        assert torch.equal(found[row, first:, :3], source[row, first - 1 : -1])
        assert (found[row, first:, 3] == 1.0).all()


def test_each_frame_sees_several_before() -> None:
    """By hand: newest first, none from before the window or the reset."""
    source = windows(geometry=False).x
    found = shown(looking_back(count=3, last_frame_sigma=0.0), source, torch.tensor([0, 5]))
    for row, first in ((0, 0), (1, 5)):
        for frame in range(T):
            for back in (1, 2, 3):
                channels = found[row, frame, 4 * (back - 1) : 4 * back]
                if frame - back < first:
                    assert not channels.any()
                else:
                    assert (
                        torch.equal(channels[:3], source[row, frame - back])
                        and (channels[3] == 1.0).all()
                    )


def test_half_of_the_frames_before_are_noisy() -> None:
    source = windows(geometry=False).x
    found = shown(looking_back(last_frame_sigma=0.1), source, torch.zeros(B, dtype=torch.long))
    clean = (found[:, 1:, :3] == source[:, :-1]).flatten(2).all(2)
    assert 0.2 < float(clean.float().mean()) < 0.8
    assert float((found[:, 1:, :3] - source[:, :-1]).abs().amax()) < 1.0


@pytest.mark.parametrize("fold", [1, 2])
def test_what_stays_is_there_from_the_start(fold: int) -> None:
    """A network that has learned nothing predicts the frame before; where there is none, grey."""
    objective = looking_back(fold, last_frame_sigma=0.0, context_drop=0.0)
    given = windows(geometry=False)
    prediction = objective(given, None, None, torch.Generator().manual_seed(0))["prediction"]
    assert torch.allclose(prediction[:, 1:], given.x[:, :-1], atol=1e-6)
    assert not prediction[:, 0].any()


def test_a_change_of_the_frame_before_reaches_the_next_alone() -> None:
    """Where attention sees no other frame, only through what is shown: never a frame's own pixels,
    nor those of later ones."""
    objective = awake(looking_back(last_frame_sigma=0.0, context_drop=0.0, pure_noise=1.0))
    # Attention within the frame alone.
    objective.network.register_to_config(window=1)
    found = []
    for changed in (False, True):
        given = windows(geometry=False)
        if changed:
            given.rgb[:, 6] = 255 - given.rgb[:, 6]
        found.append(objective(given, None, None, torch.Generator().manual_seed(0))["prediction"])
    apart = (found[0] - found[1]).abs().amax((0, 2, 3, 4))
    assert not apart[:7].any() and apart[7] > 0 and not apart[8:].any()


@pytest.mark.parametrize(("count", "fold", "reset"), [(1, 1, 0), (3, 2, 3), (4, 1, 3)])
def test_cached_steps_equal_a_banded_forward(count: int, fold: int, reset: int) -> None:
    """What is shown, bit by bit, and the predictions: of training's windows and of the steps of a
    world."""
    objective = awake(looking_back(fold, count, last_frame_sigma=0.0))
    given, level = windows(geometry=False), 0.05
    noise = torch.randn(2, *given.x.shape, generator=torch.Generator().manual_seed(1))
    hidden = torch.full((B,), reset)
    last = objective._last(given.x, hidden, torch.Generator().manual_seed(0))
    assert last is not None
    context_sigma = torch.full((B, T), level)
    noisy = torch.cat([add_noise(given.x, noise[0], context_sigma), noise[1]], 1)
    with torch.no_grad():
        (whole,), _ = objective._predict(
            noisy, [context_sigma, torch.ones(B, T)], given, None, hidden, last
        )
    dynamics = DiffusionDynamics(objective.network, DynamicsConfig(context_sigma=level))
    context, before = dynamics.empty(B, "cpu"), Frame(torch.zeros_like(given.rgb[:, 0]))
    intrinsics = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(B, 4)
    with torch.no_grad():
        for t in range(reset, T):
            shown = last_frames(before, context)
            condition = dynamics.condition(given.act[:, t], given.motion[:, t], shown, intrinsics)
            assert torch.equal(condition.view[:, 0], last[:, t])
            x, _, context = dynamics.sample(context, condition, noise[1][:, t])
            assert torch.allclose(x, whole[:, t], atol=1e-4)
            before = Frame(given.rgb[:, t])
            context = dynamics.hold(context, before, condition, noise[0][:, t])


def test_dreams_of_training_are_shown_what_they_dreamed() -> None:
    """The frames before are those that the walk went on from, dreamed or true, without the
    context's noise."""
    objective = awake(looking_back(count=2))
    own = OwnFrames(objective.network)
    given = windows(geometry=False)
    lockstep = Lockstep(None, own, torch.device("cpu"))
    walk = own.walk(B, torch.Generator().manual_seed(3), (2.0, 4.0))
    walks, emitted = lockstep.begin(B, dreams=True), []
    nothing = torch.zeros(B)
    for t in range(4 * T):
        true = Frame(given.rgb[:, t % T])
        step = Given(
            true,
            given.act[:, t % T],
            given.motion[:, t % T],
            torch.ones(B, 4),
            nothing.long(),
            (),
            walk.draw(),
            nothing.bool(),
        )
        walks, found = lockstep.step(walks, step)
        assert walks.context is not None
        for back in (1, 2):
            channels = walks.context.condition.view[:, 0, 4 * (back - 1) : 4 * back]
            assert (
                torch.equal(channels[:, :3], frame_to_channels(emitted[t - back], None))
                if t >= back
                else not channels.any()
            )
        emitted.append(found["own_rgb"].clone())
    assert bool(walks.before.any()), "nothing was dreamed"


def test_a_students_context_of_its_own_is_what_it_is_shown() -> None:
    """Or it could copy the answer to its own drift from the true frame before."""
    network = looking_back(context_drop=0.0).network
    teacher = awake(looking_back()).network
    config = DistilLossConfig(own_context=1.0, own_context_from=0.0, context_drop=0.0)
    student = DistilLoss(network, teacher, OutcomeHead(dim=32, hidden=8), config)
    shown = []
    inner = student._last
    student._last = lambda source, *rest: (shown.append(source), inner(source, *rest))[1]  # type: ignore[method-assign]
    given = windows(geometry=False)
    student(given, None, None, torch.Generator().manual_seed(0))
    assert (
        len(shown) == 2
        and torch.equal(shown[0], given.context)
        and not torch.allclose(shown[1], given.context, atol=0.1)
    )


def test_use_is_as_training(tmp_path: Path, blind: Path) -> None:
    """What the network is shown when it dreams is the emitted frame before, and after a start the
    last given one."""
    settings = TrainConfig(
        (blind,), tmp_path / "run", memory=False, last_frames=2, keep_still=1.5, **SETTINGS
    )
    trainer = Trainer(settings)
    trainer.wait_for_data()
    trainer.train_step()
    world = trainer.world()
    assert world.config.dynamics.keep_still == 1.5
    n = world.network.config
    assert n.last_frames == 2 and n.view_channels == 8
    episode = EpisodeDataset(blind)[0]
    state = world.initial([scene_at(episode, 5, 3, "five")], [0])

    def before(*frames: Tensor) -> Tensor:
        mask = torch.ones(1, 1, n.height, n.width)
        return torch.cat([torch.cat([frame_to_channels(rgb, None), mask], 1) for rgb in frames], 1)

    # The frame before a start's last one was given, too.
    last, newest = torch.from_numpy(episode.rgb[4:6].copy()).permute(0, 3, 1, 2)[:, None]
    assert torch.equal(state.frame.rgb, newest)
    for _ in range(3):
        state, transition = world.step(state, torch.tensor([1]))
        assert torch.equal(state.context.condition.view[:, 0], before(newest, last))
        last, newest = newest, state.frame.rgb.clone()
        assert transition.view is None and float(transition.coverage) == 0.0
    assert world.coverage(state).tolist() == [0.0]
    # No change is larger than 255: nothing moves any more.
    still = world.with_dynamics(keep_still=255.0)
    assert fingerprint(still) != fingerprint(world)
    _, transition = still.step(state, torch.tensor([1]))
    assert torch.equal(transition.frame.rgb, newest)
    # A world that has seen nothing has no frame before.
    blank, _ = world.step(world.blank(1), torch.tensor([1]))
    assert not blank.context.condition.view.any()
    again = World.from_pretrained(world.save_pretrained(tmp_path / "world"), device="cpu")
    assert again.network.config.last_frames == 2
    with pytest.raises(
        InvalidInputError,
        match="view_channels = 5: 2 frames of 3 channels, each with a mask, have 8",
    ):
        SpaceTimeTransformer(height=16, width=16, channels=3, view_channels=5, last_frames=2)
    with pytest.raises(InvalidInputError, match="TrainConfig.last_frames = -1"):
        dataclasses.replace(settings, last_frames=-1)


def test_it_does_not_stand_in_for_a_memory(tmp_path: Path, rooms: Path) -> None:
    settings = TrainConfig((rooms,), tmp_path / "run", memory=False, **SETTINGS)
    trainer = Trainer(settings)
    trainer.wait_for_data()
    assert trainer.network.config.view_channels == 4 * 5  # Depth, too.
    trainer.world().save_pretrained(tmp_path / "world")
    with pytest.raises(InvalidInputError, match="sees no scene memory, pass --no-memory"):
        Trainer(
            TrainConfig((rooms,), tmp_path / "other", init_from=str(tmp_path / "world"), **SETTINGS)
        )
    assert "last_frames" in AGREED
