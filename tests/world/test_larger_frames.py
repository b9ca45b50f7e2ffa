"""The whole way at 128x96, frames that are neither square nor 64x64: record, train twice, export,
scenes, dream, evaluate, demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests.helpers.training import train_config
from worldsim.app.demo import DemoConfig, demo
from worldsim.app.export import ExportConfig, export
from worldsim.data.record import RecordConfig, record
from worldsim.diffusion.network import SpaceTimeTransformer
from worldsim.evaluation.evaluate import EvaluateConfig, evaluate
from worldsim.training.corruption import PerturbConfig
from worldsim.training.loss import LossConfig, energy_score
from worldsim.training.train import PRESETS, train
from worldsim.world import World
from worldsim.world.config import WorldConfig
from worldsim.world.heads import EgoMotionHead
from worldsim.world.scene_files import ScenesConfig, record_scenes

HEIGHT, WIDTH = 96, 128
SIZE = {"height": HEIGHT, "width": WIDTH}
MIRROR = (0, 1, 2, 4, 3, 6, 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported world with two start scenes, after the two phases of training that
    docs/experiments/freedoom_small.md has."""
    place = tmp_path_factory.mktemp("larger")
    record(
        RecordConfig(
            "worldsim/FreedoomReal-v0",
            place / "data",
            frames=100,
            frames_per_shard=50,
            episode_steps=24,
            min_travel=0.0,
            workers=0,
            reset_options={"split": "train"},
            env_kwargs=dict(SIZE),
            seed=1,
        )
    )
    settings: dict[str, Any] = {
        "steps": 2, "batch_size": 1, "warmup": 1, "memory_capacity": 30_000,
        "world_memory_capacity": 60_000, "mirror_actions": MIRROR,
    }  # fmt: skip
    train(train_config(place / "data", place / "first", **settings))
    objective = LossConfig(energy=0.7, pure_noise=0.7)
    own = PerturbConfig(own=1.0, own_frames=(2, 4))
    settings |= {
        "init_from": str(place / "first" / "world"),
        "edits": 0.5,
        "loss": objective,
        "perturb": own,
    }
    train(train_config(place / "data", place / "second", **settings))
    assert len(list((place / "second" / "samples").glob("*.png"))) == 1
    export(ExportConfig(str(place / "second" / "world"), place / "world"))
    record_scenes(
        ScenesConfig(
            "worldsim/FreedoomReal-v0",
            place / "world" / "scenes",
            maps=("MAP29", "MAP31"),
            count=2,
            env_kwargs=dict(SIZE),
        )
    )
    return place / "world"


@pytest.mark.slow
def test_the_dream_is_the_twin_of_larger_frames(folder: Path) -> None:
    world = World.from_pretrained(folder, "cpu")
    assert world.config.env_kwargs == SIZE
    env: Any = gym.make("worldsim/FreedoomDream-v0", world=str(folder), device="cpu")
    real = gym.make(world.config.env_id, **world.config.env_kwargs)
    assert env.observation_space == real.observation_space and env.action_space == real.action_space
    obs, info = env.reset(seed=0, options={"scene": "MAP31-1"})
    assert obs.shape == (HEIGHT, WIDTH, 3) and info["depth"].shape == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(info["intrinsics"], real.reset(seed=0)[1]["intrinsics"])
    real.close()
    obs, _, _, _, info = env.step(4)
    assert obs.shape == (HEIGHT, WIDTH, 3) and info["memory_coverage"] > 0.5
    assert env.unwrapped.fork(2).step(np.array([1, 3]))[0].shape == (2, HEIGHT, WIDTH, 3)
    picture = env.unwrapped.memory.render(env.unwrapped.memory.pose)
    assert picture.rgb.shape == (HEIGHT, WIDTH, 3) and picture.mask.mean() > 0.8
    assert all(
        sum(f.stat().st_size for f in scene.iterdir()) <= 200_000
        for scene in (folder / "scenes").iterdir()
    )


@pytest.mark.slow
def test_its_figures_come_at_both_sizes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"episodes": 1, "workers": 1, "bootstrap": 20, "device": "cpu"}
    walks = EvaluateConfig(
        str(folder), json=tmp_path / "walks.json", history=6, horizon=4, **settings
    )
    evaluate(walks)
    found = json.loads((tmp_path / "walks.json").read_text())
    reduced = found["at_64x64"]
    assert {
        "next_frame_psnr",
        "copy_last_psnr",
        "warp_last_psnr",
        "action_gap_psnr",
        "psnr_at",
        "gaps",
        "ci95",
    } <= set(reduced)
    assert set(reduced["ci95"]) < set(found["ci95"])
    # What is copied or warped keeps its pixels' noise, which averaging takes away.
    assert (
        reduced["warp_last_psnr"] > found["warp_last_psnr"]
        and reduced["copy_last_psnr"] > found["copy_last_psnr"]
    )
    assert "action_accuracy" not in reduced and "at_64x64" not in reduced
    trips = EvaluateConfig(
        str(folder), json=tmp_path / "trips.json", protocol="return-trip", lengths=(6,), **settings
    )
    evaluate(trips)
    found = json.loads((tmp_path / "trips.json").read_text())
    assert (
        set(found["at_64x64"]["return_real_psnr"]) == {"6"}
        and "sharpness_ratio" not in found["at_64x64"]
    )
    assert capsys.readouterr().out.count("64x64") >= 2


@pytest.mark.slow
def test_the_demo_shows_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldsim.app.demo.STARTS", 1)
    metrics = demo(DemoConfig(tmp_path, str(folder), history=4, outward=3, device="cpu"))
    assert metrics["dreamed_frames"] == 9 and (tmp_path / "rollout.mp4").stat().st_size > 1000


def test_the_preset_fits_its_eight_megabytes(tmp_path: Path) -> None:
    """Weights at 8 bits, its head and ten start scenes of at most 125 KB: frames of 128x96 take 119
    KB on average."""
    network = SpaceTimeTransformer(height=HEIGHT, width=WIDTH, **PRESETS["small"])
    World(network, WorldConfig(intrinsics=(1.0, 1.0, 64.0, 48.0)), EgoMotionHead()).save_pretrained(
        tmp_path, eight_bit=True
    )
    assert (
        sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file()) + 10 * 125_000
        <= 8_000_000
    )


def test_the_energy_score_of_frames_that_squares_do_not_divide() -> None:
    """Frames of 12x16 at the coarsest scale: squares of 8x8, and of 4x8 at the lower edge, count
    alike."""
    truth = torch.zeros(1, 1, 3, HEIGHT, WIDTH)
    off = torch.full_like(truth, 0.3)
    # A constant lies in the coarsest band alone; both samples agree, so the score is its distance:
    # sqrt(3 * 0.3^2).
    score = energy_score(off, off, truth)
    assert score.item() == pytest.approx(0.3 * 3**0.5, abs=4e-3)
