"""Worlds without memory look at the frames before: the same in training and at use, and what stays as it was costs nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.diffusion.test_objective import SIZE, B, T, windows
from worldsim.data.dataset import EpisodeDataset
from worldsim.data.starts import scene_at
from worldsim.diffusion.denoiser import frame_to_channels
from worldsim.diffusion.distil import AGREED
from worldsim.diffusion.network import SpaceTimeTransformer
from worldsim.diffusion.objective import Objective, ObjectiveConfig
from worldsim.diffusion.train_config import TrainConfig
from worldsim.diffusion.trainer import Trainer
from worldsim.errors import InvalidInputError
from worldsim.heads import OutcomeHead
from worldsim.world import World

SETTINGS: dict[str, Any] = {"preset": "debug", "steps": 2, "batch_size": 2, "window": 12, "warmup": 1, "mixed_precision": "no"}


def looking_back(fold: int = 1, count: int = 1, **config: float) -> Objective:
    torch.manual_seed(0)
    network = SpaceTimeTransformer(
        height=SIZE, width=SIZE, channels=3, view_channels=4 * count, last_frames=count, actions=7, dim=32, depth=2, heads=2,
        levels=(8, 16), window=4, fold=fold,
    )  # fmt: skip
    return Objective(network, None, OutcomeHead(dim=32, hidden=8), ObjectiveConfig(**config))


def shown(objective: Objective, source: Tensor, hidden_before: Tensor) -> Tensor:
    found = objective._last(source, hidden_before, torch.Generator().manual_seed(0))
    assert found is not None and found.shape == (B, T, 4 * objective.network.config.last_frames, SIZE, SIZE)
    return found


def test_each_frame_sees_the_one_before() -> None:
    """By hand: the first frame of a window sees nothing, nor does the first after a reset; no frame sees itself."""
    source = windows(geometry=False).x
    found = shown(looking_back(last_frame_level=0.0), source, torch.tensor([0, 5]))
    assert not found[:, 0].any() and not found[1, :6].any()
    for row, first in ((0, 1), (1, 6)):
        assert torch.equal(found[row, first:, :3], source[row, first - 1 : -1])
        assert (found[row, first:, 3] == 1.0).all()


def test_each_frame_sees_several_before() -> None:
    """By hand: newest first, none from before the window or the reset."""
    source = windows(geometry=False).x
    found = shown(looking_back(count=3, last_frame_level=0.0), source, torch.tensor([0, 5]))
    for row, first in ((0, 0), (1, 5)):
        for frame in range(T):
            for back in (1, 2, 3):
                channels = found[row, frame, 4 * (back - 1) : 4 * back]
                if frame - back < first:
                    assert not channels.any()
                else:
                    assert torch.equal(channels[:3], source[row, frame - back]) and (channels[3] == 1.0).all()


def test_half_of_the_frames_before_are_noisy() -> None:
    source = windows(geometry=False).x
    found = shown(looking_back(last_frame_level=0.1), source, torch.zeros(B, dtype=torch.long))
    clean = (found[:, 1:, :3] == source[:, :-1]).flatten(2).all(2)
    assert 0.2 < float(clean.float().mean()) < 0.8
    assert float((found[:, 1:, :3] - source[:, :-1]).abs().amax()) < 1.0


@pytest.mark.parametrize("fold", [1, 2])
def test_what_stays_is_there_from_the_start(fold: int) -> None:
    """A network that has learned nothing predicts the frame before; where there is none, grey."""
    objective = looking_back(fold, last_frame_level=0.0, context_drop=0.0)
    given = windows(geometry=False)
    prediction = objective(given, None, None, torch.Generator().manual_seed(0))["prediction"]
    assert torch.allclose(prediction[:, 1:], given.x[:, :-1], atol=1e-6)
    assert not prediction[:, 0].any()


def test_a_change_of_the_frame_before_reaches_the_next_alone(rooms: Path) -> None:
    """Beside the attention's window, it is the only way that a target learns of other frames' pixels: never of its own or later."""
    objective = looking_back(last_frame_level=0.0, context_drop=0.0)
    with torch.no_grad():
        for weight in objective.network.parameters():
            if not weight.any():
                weight.normal_(0.0, 0.1)
    found = []
    for changed in (False, True):
        given = windows(geometry=False)
        if changed:
            given.rgb[:, 6] = 255 - given.rgb[:, 6]
        found.append(objective(given, None, None, torch.Generator().manual_seed(0)))
    # Only frames after the changed one: at pure noise a frame's own pixels are no input.
    apart = (found[0]["prediction"] - found[1]["prediction"]).abs().amax((0, 2, 3, 4))
    assert not apart[:6].any() and apart[7] > 0


def test_use_is_as_training(tmp_path: Path, blind: Path) -> None:
    """What the network is shown when it dreams is the emitted frame before, and after a start the last given one."""
    settings = TrainConfig((blind,), tmp_path / "run", memory=False, last_frames=2, **SETTINGS)
    trainer = Trainer(settings)
    trainer.wait_for_data()
    trainer.train_step()
    world = trainer.world()
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
    # A world that has seen nothing has no frame before.
    blank, _ = world.step(world.blank(1), torch.tensor([1]))
    assert not blank.context.condition.view.any()
    again = World.from_pretrained(world.save_pretrained(tmp_path / "world"), device="cpu")
    assert again.network.config.last_frames == 2
    with pytest.raises(InvalidInputError, match="TrainConfig.last_frames = -1"):
        dataclasses.replace(settings, last_frames=-1)


def test_it_does_not_stand_in_for_a_memory(tmp_path: Path, rooms: Path) -> None:
    settings = TrainConfig((rooms,), tmp_path / "run", memory=False, **SETTINGS)
    trainer = Trainer(settings)
    trainer.wait_for_data()
    assert trainer.network.config.view_channels == 4 * 5  # Depth, too.
    trainer.world().save_pretrained(tmp_path / "world")
    with pytest.raises(InvalidInputError, match="sees no scene memory, pass --no-memory"):
        Trainer(TrainConfig((rooms,), tmp_path / "other", init_from=str(tmp_path / "world"), **SETTINGS))
    assert "last_frames" in AGREED
