"""The shipped world walks on its own for a minute of steps and stays sane."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from worldsim.evaluation.benchmark_set import POLICY
from worldsim.shipped.policies import make_policy
from worldsim.state import flatten
from worldsim.world import World
from worldsim.world.files import find_world
from worldsim.world.scene_files import load_scene, scene_names

STEPS, WALKS = 60, ("MAP29-5", "MAP31-5")


def colours(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel in [0, 1]: (b, 3, h, w) uint8 to (b, 3) twice."""
    values = rgb.float() / 255.0
    return values.mean((2, 3)), values.std((2, 3))


@pytest.mark.slow
def test_sixty_steps_of_two_walks_stay_finite_and_in_colour() -> None:
    """Every tensor of the state stays finite; colours stay near those of the start scenes.

    The band is that of the scenes' frames, a tenth of the range wider for means, from a quarter to
    one and a half times for deviations: walls that fill the view have little contrast. Measured on
    six walks: means of 0.02 to 0.43 in a band of -0.09 to 0.57, deviations of 0.012 to 0.196 in
    0.004 to 0.34.
    """
    world, folder = (
        World.from_pretrained("freedoom-tiny", device="cpu"),
        find_world("freedoom-tiny") / "scenes",
    )
    mean, deviation = colours(
        torch.cat([load_scene(folder / name).rgb for name in scene_names(folder)])
    )
    state = world.initial([load_scene(folder / name) for name in WALKS], [0, 1])
    policies = [make_policy(POLICY, world.action_space) for _ in WALKS]
    for seed, policy in enumerate(policies):
        policy.reset(seed)
    for step in range(STEPS):
        act = torch.tensor(np.array([policy.act(None) for policy in policies]))
        state, transition = world.step(state, act)
        for name, tensor in {
            **flatten(state),
            "rew": transition.rew,
            "coverage": transition.coverage,
        }.items():
            assert bool(torch.isfinite(tensor).all()), f"{name} after {step + 1} steps"
        now, spread = colours(transition.frame.rgb)
        assert bool((now > mean.amin(0) - 0.1).all() and (now < mean.amax(0) + 0.1).all()), (
            f"means {now} at step {step + 1}"
        )
        low, high = 0.25 * deviation.amin(0), 1.5 * deviation.amax(0)
        assert bool((spread > low).all() and (spread < high).all()), (
            f"deviations {spread} at step {step + 1}"
        )
    assert not transition.term.any() and bool((transition.rew == 0).all())
    # It went somewhere, and remembers it.
    assert float(world.memory.statistics(state.memory)["points"].min()) > 5000
