"""The larger shipped world: its size, its card, and that its dream follows the real twin."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from worldsim.evaluation.metrics import psnr
from worldsim.world import World
from worldsim.world.files import find_world
from worldsim.world.scene_files import scene_names

DREAM = "worldsim/FreedoomDream-v0"
NAME = "freedoom-small"


@pytest.fixture(scope="module")
def world() -> World:
    return World.from_pretrained(NAME, device="cpu")


def test_it_is_small_and_starts_in_test_maps() -> None:
    folder = find_world(NAME)
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) <= 8_000_000
    assert {name.split("-")[0] for name in scene_names(folder / "scenes")} == {
        "MAP28",
        "MAP29",
        "MAP30",
        "MAP31",
        "MAP32",
    }


def test_its_card_names_data_licence_and_results(world: World) -> None:
    from worldsim.envs.doom import TRAIN_MAPS

    assert set(world.card["train_maps"]) == set(TRAIN_MAPS)
    assert "Freedoom" in world.card["licence"]
    results = world.card["results"]
    assert (
        results["next_frame_psnr"] > results["warp_last_psnr"]
        and results["at_64x64"]["next_frame_psnr"] > 30
    )
    assert (
        len(world.card["training"]["runs"]) > 1
        and world.card["return_trips"]["return_real_psnr"]["125"] > 25
    )


@pytest.mark.slow
def test_the_dream_follows_the_real_twin(world: World) -> None:
    """Four frames of a walk through a test map, dreamed after sixteen true ones: nearer to the twin
    than the last true one is."""
    real = gym.make(world.config.env_id, **world.config.env_kwargs)
    dream: Any = gym.make(DREAM, world=world)
    assert dream.observation_space == real.observation_space
    rng = np.random.default_rng(0)
    frame, info = real.reset(seed=3, options={"split": "test"})
    frames, infos, acts = [frame], [info], [0]
    for act in rng.choice([1, 1, 1, 3, 4], 19):
        frame, *_, info = real.step(int(act))
        frames.append(frame), infos.append(info), acts.append(int(act))
    start = {
        "rgb": np.stack(frames[:16]),
        "depth": np.stack([i["depth"] for i in infos[:16]]),
        "pose": np.stack([i["pose"] for i in infos[:16]]),
        "act": np.array(acts[:16]),
        "intrinsics": infos[0]["intrinsics"],
    }
    dream.reset(seed=0, options={"frames": start})
    gains = []
    for i in range(16, 20):
        seen, *_, info = dream.step(acts[i])
        assert seen.shape == (96, 128, 3) and info["memory_coverage"] > 0.5
        gains.append(_psnr(seen, frames[i]) - _psnr(frames[15], frames[i]))
    real.close(), dream.close()
    assert np.mean(gains) > 2


def _psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    first, second = (torch.from_numpy(x.copy()).permute(2, 0, 1)[None] for x in (a, b))
    return float(psnr(first, second))
