"""Adapters of a video model: LoRA in its denoiser, and inputs of action and camera.

An adapter is a folder. ``adapter_config.json`` and ``adapter_model.safetensors`` are LoRA in peft's
format; peft runs it beside the model's own weights, which never change.
``action_input.safetensors``, if there is one, is a linear layer from the action and the camera's
motion to the embedding of the noise level, which all layers of the model receive. It starts at zero
(as in CameraCtrl, He et al. 2024), so a new adapter changes nothing. All adapters are added up.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldsim.errors import DamagedFileError, InvalidInputError
from worldsim.runtime.extras import missing
from worldsim.runtime.files import (
    inside,
    is_file,
    load_tensors,
    require_finite,
    require_regular,
    sha256_of,
)
from worldsim.runtime.json_config import content_sha256
from worldsim.world.adapters import Adapter, adapter_folder, read_adapter
from worldsim.world.heads import encode_actions

ACTION_INPUT = "action_input.safetensors"
MOTION = 6
"""Numbers of a camera's motion."""
MOTION_UNITS = 10.0
"""Motions of a step are centimetres and hundredths of radians: they are brought to order one."""
TIME = ("time_embedder", "time_embedding", "timestep_embedder")
"""Last names of the module that embeds the noise level, in diffusers' denoisers."""


class ModelAdapters:
    """The adapters of a pipeline's denoiser.

    pipeline: a pipeline of diffusers with a ``transformer`` or a ``unet``.
    """

    def __init__(self, pipeline: Any) -> None:
        self.part = "transformer" if hasattr(pipeline, "transformer") else "unet"
        self.denoiser: nn.Module = getattr(pipeline, self.part)
        self._loaded: dict[str, Adapter] = {}
        self._inputs: dict[str, Tensor] = {}
        self._scales: dict[str, float] = {}
        self._added: Tensor | None = None
        self._hooked = False

    def load(self, path: Path | str) -> str:
        """Load an adapter, turned off; returns its key for :meth:`use`, a SHA-256.

        Raises NotFoundError, DamagedFileError, InvalidInputError for an adapter of another model,
        or MissingDependencyError without peft.
        """
        folder = adapter_folder(path)
        adapter = read_adapter(folder, {self.part: self.denoiser})
        file = inside(folder, ACTION_INPUT)
        has_input = is_file(file)
        key = content_sha256(
            {"lora": adapter.sha256, "input": sha256_of(file) if has_input else ""}
        )
        if key in self._loaded:
            return key
        weight = self._read_input(file) if has_input else None
        self._inject(key, adapter)
        if weight is not None:
            self._inputs[key] = weight
            self._hook()
        self._loaded[key] = adapter
        self._apply({**self._scales, key: 0.0})
        return key

    @property
    def reads_action(self) -> bool:
        """Whether an adapter has an input for the action."""
        return bool(self._inputs)

    def use(self, scales: Mapping[str, float]) -> None:
        """Use these adapters, by key, and no other ones."""
        wanted = {key: float(scales.get(key, 0.0)) for key in self._loaded}
        if wanted != self._scales:
            self._apply(wanted)

    @contextmanager
    def acting(self, act: Tensor | None, motion: Tensor | None) -> Iterator[None]:
        """Context in which the denoiser receives an action and the camera's motion.

        act: () int64 or (n,) float32; None adds nothing.
        motion: (6,) metres and radians.

        Raises InvalidInputError for an adapter that was trained with other actions.
        """
        self._added = None
        if act is not None and motion is not None:
            for key, weight in self._inputs.items():
                if scale := self._scales.get(key, 0.0):
                    told = _told(act, motion, weight.shape[1] - MOTION)
                    added = scale * (weight @ told.to(weight))
                    self._added = added if self._added is None else self._added + added
        try:
            yield
        finally:
            self._added = None

    def _inject(self, key: str, adapter: Adapter) -> None:
        """Put the adapter's matrices beside the denoiser's weights."""
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise missing("adapters of video models run in peft", "adapter", error) from error
        names = sorted(name.partition(".")[2] for name in adapter.factors)
        ranks = {key.partition(".")[2]: len(a) for key, (a, _) in adapter.factors.items()}
        config = LoraConfig(target_modules=names, rank_pattern=ranks)
        name = peft_name(key)
        with warnings.catch_warnings():
            # peft warns of a second adapter, which is wanted here.
            warnings.filterwarnings("ignore", "Already found a `peft_config`")
            inject_adapter_in_model(config, self.denoiser, adapter_name=name)
        for layer, (a, b) in adapter.factors.items():
            module: Any = self.denoiser.get_submodule(layer.partition(".")[2])
            with torch.no_grad():
                for factor, value in ((module.lora_A, a), (module.lora_B, b)):
                    factor[name].weight.copy_(value)
        self.denoiser.requires_grad_(False)

    def _apply(self, scales: Mapping[str, float]) -> None:
        used = [peft_name(key) for key, scale in scales.items() if scale]
        for module in self.denoiser.modules():
            if not hasattr(module, "lora_A"):
                continue
            layer: Any = module
            here = [name for name in used if name in layer.lora_A]
            layer.enable_adapters(bool(here))
            if here:
                layer.set_adapter(here)
            for key, scale in scales.items():
                if peft_name(key) in layer.lora_A:
                    layer.scaling[peft_name(key)] = scale * self._strength(key)
        self.denoiser.requires_grad_(False)
        self._scales = dict(scales)

    def _strength(self, key: str) -> float:
        return self._loaded[key].strength

    def _read_input(self, file: Path) -> Tensor:
        tensors = load_tensors(require_regular(file))
        require_finite(tensors, file)
        dim = time_dim(time_module(self.denoiser))
        weight = tensors.get("weight")
        if set(tensors) != {"weight"} or weight is None or weight.ndim != 2:
            raise DamagedFileError(f"{file} holds {sorted(tensors)}: one matrix 'weight' is needed")
        if weight.shape[0] != dim or weight.shape[1] <= MOTION:
            raise InvalidInputError(
                f"{file} has a weight of shape {tuple(weight.shape)}, and this model takes "
                f"({dim}, {MOTION} and the numbers of an action): load it into the model that it "
                f"was trained on"
            )
        return weight.float()

    def _hook(self) -> None:
        if self._hooked:
            return

        def add(module: nn.Module, arguments: object, output: Tensor) -> Tensor:
            if self._added is None:
                return output
            return output + self._added.to(output)

        time_module(self.denoiser).register_forward_hook(add)
        self._hooked = True


def _told(act: Tensor, motion: Tensor, width: int) -> Tensor:
    """Return what an action input of ``width`` actions reads, (width + 6,).

    Raises InvalidInputError for an action that it does not know.
    """
    discrete = not act.is_floating_point()
    if (discrete and not 0 <= int(act) < width) or (not discrete and act.numel() != width):
        found = f"action {int(act)}" if discrete else f"an action vector of {act.numel()}"
        raise InvalidInputError(
            f"the adapter was trained with {width} actions, or vectors of {width}, and receives "
            f"{found}: use an adapter that was trained with this world's actions"
        )
    return action_numbers(act[None], motion[None], width if discrete else 0)[0]


def peft_name(key: str) -> str:
    """Return the name that peft uses for the adapter of a key."""
    return f"a{key[:16]}"


def action_numbers(act: Tensor, motion: Tensor, actions: int) -> Tensor:
    """Return actions (b, ...) and motions (b, 6) as the numbers that action inputs read, (b, k)."""
    return torch.cat([encode_actions(act, actions), MOTION_UNITS * motion.float()], -1)


def time_module(denoiser: nn.Module) -> nn.Module:
    """Return the module that embeds the noise level.

    Raises InvalidInputError for a denoiser without one.
    """
    for name, module in denoiser.named_modules():
        if name.rpartition(".")[2] in TIME and hasattr(module, "linear_2"):
            return module
    raise InvalidInputError(
        f"{type(denoiser).__name__} has no embedding of the noise level called "
        f"{', '.join(TIME)}: it takes adapters without an action input only"
    )


def time_dim(module: nn.Module) -> int:
    """Return the size of the embedding."""
    last: Any = module.linear_2
    return int(getattr(last, "base_layer", last).out_features)
