"""The trained parts are diffusers models, and a first step does without torch's compiler."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin

from worldsim.world import World
from worldsim.world.heads import EgoMotionHead, OutcomeHead

FIRST_STEP = """
import sys, gymnasium, worldsim
env = gymnasium.make("worldsim/Dream-v0", world=sys.argv[1])
env.reset(seed=0)
env.step(1)
print("torch._dynamo" in sys.modules)
import torch
print(float(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(()))))
import diffusers.utils.torch_utils as torch_utils
print(torch_utils.maybe_allow_in_graph(torch.nn.Linear) is torch.nn.Linear)
from diffusers.models.attention import BasicTransformerBlock
"""


def test_a_first_step_does_not_import_the_compiler_and_leaves_it_usable(world_folder: Path) -> None:
    command = [sys.executable, "-c", FIRST_STEP, str(world_folder)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.split() == ["False", "2.0", "True"]


def test_parts_are_diffusers_models(tiny_world: World, tmp_path: Path) -> None:
    for name, module in tiny_world.modules().items():
        assert isinstance(module, ModelMixin) and isinstance(module, ConfigMixin)
        module.save_pretrained(tmp_path / name)
        again = type(module).from_pretrained(tmp_path / name)
        assert all(
            torch.equal(a, b)
            for a, b in zip(module.state_dict().values(), again.state_dict().values(), strict=True)
        )


@pytest.mark.parametrize("make", [lambda: EgoMotionHead(hidden=16), lambda: OutcomeHead(dim=16)])
def test_moving_and_casting_give_the_module_itself(make) -> None:
    module = make()
    assert module.to("cpu") is module
    assert module.to(torch.float64) is module and next(module.parameters()).dtype == torch.float64
    # With diffusers' offloading loaded, moving is diffusers' own.
    import diffusers.hooks.group_offloading  # noqa: F401

    assert (
        module.to(device="cpu", dtype=torch.float32) is module
        and next(module.parameters()).dtype == torch.float32
    )
