"""Adapters of a world: small changes of its weights, loaded, scaled and stacked at run time.

An adapter adds a product of two thin matrices to the weights of some layers (LoRA, Hu et al. 2021).
It is a folder of two files in peft's format: ``adapter_config.json`` and
``adapter_model.safetensors``. ``worldsim train --adapter`` writes it. Nothing but numbers is read
from it: which layers may be changed, and their shapes, are the world's.

A world with adapters runs copies of its modules with changed weights, so a step costs what it costs
without them, whatever the engine. The world's own weights never change.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.runtime.files import (
    as_path,
    inside,
    is_file,
    is_folder,
    load_tensors,
    require_finite,
    require_regular,
    sha256_of,
)
from worldsim.runtime.json_config import read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""How peft begins the names of an adapter's tensors."""
BASE = "worldsim.base"
"""Key of the header of the weights: :attr:`worldsim.world.World.weights_id` of the world that the
adapter was trained on."""
MOST_RANK, MOST_ALPHA = 65536, 1e6
"""Largest rank and ``lora_alpha`` that a file may claim."""
MOST_SCALE = 100.0
"""Largest scale. Beyond it, frames are noise."""

SHARE = 0.05
"""Largest share of the parameters of what it adapts that an adapter in training may have."""

_Value = TypeVar("_Value")
_FACTOR = re.compile(r"(\w+)\.([\w.]+)\.lora_(embedding_)?([AB])(?:\.weight)?")
_NAME = re.compile(r"[\w.-]{1,64}")
_PLAIN = {
    "use_dora": False,
    "bias": "none",
    "fan_in_fan_out": False,
    "lora_bias": False,
    "modules_to_save": None,
    "layer_replication": None,
    "target_parameters": None,
    "trainable_token_indices": None,
}
"""Settings of peft's LoRA that change what the tensors mean, at the only values that are read."""


@dataclass(frozen=True)
class Adapter:
    """A loaded adapter.

    name: the user's name for it.
    scale: factor of its change; 0 turns it off.
    factors: by ``PART.LAYER``, the matrices A and B of the change ``strength * B @ A``.
    strength: ``lora_alpha / r``.
    sha256: of the file with its weights.
    base: weights id of the world that it was trained on, empty if the file does not tell.
    """

    name: str
    scale: float
    factors: Mapping[str, tuple[Tensor, Tensor]]
    strength: float
    sha256: str
    base: str = ""

    @property
    def parameters(self) -> int:
        """Number of its parameters."""
        return sum(a.numel() + b.numel() for a, b in self.factors.values())


def check_name(name: str) -> str:
    """Return an adapter's name. Raises InvalidInputError for an invalid one."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"an adapter's name is {name!r}: use 1 to 64 letters, digits, '_', '-' or '.'"
        )
    return name


def name_of(path: str | os.PathLike[str], name: str = "") -> str:
    """Return an adapter's name: ``name``, else that of its folder."""
    told = as_path(path).resolve().name
    return check_name(name or re.sub(r"[^\w.-]", "_", told)[:64] or "adapter")


def check_scale(scale: float) -> float:
    """Return an adapter's scale. Raises InvalidInputError unless it lies in [-100, 100]."""
    if (
        isinstance(scale, bool)
        or not isinstance(scale, (int, float))
        or not abs(scale) <= (MOST_SCALE)
    ):
        raise InvalidInputError(
            f"an adapter's scale is {scale!r}: give a number in [-{MOST_SCALE:g}, {MOST_SCALE:g}], "
            f"1 for its full effect, 0 for none"
        )
    return float(scale)


def adapter_folder(path: str | os.PathLike[str]) -> Path:
    """Return the folder of an adapter: ``path``, or ``adapter`` in the folder of a training.

    Raises NotFoundError.
    """
    folder = as_path(path)
    for one in (folder, folder / "adapter"):
        if is_file(one / CONFIG):
            return one
    what = f"has no {CONFIG}" if is_folder(folder) else "does not exist"
    raise NotFoundError(
        f"{str(folder)!r} {what}: give the folder that `worldsim train --adapter` wrote"
    )


def read_adapter(
    path: str | os.PathLike[str],
    modules: Mapping[str, nn.Module],
    name: str = "",
    scale: float = 1.0,
) -> Adapter:
    """Read an adapter and compare it with the modules that it changes.

    path: its folder, or that of its training.
    modules: the world's modules by name.
    name: by default the folder's name.

    Raises NotFoundError, DamagedFileError, or InvalidInputError for an adapter of another world.
    """
    folder, name = adapter_folder(path), name_of(path, name)
    ranks = _read_config(folder)
    weights = inside(folder, WEIGHTS)
    if not is_file(weights):
        raise NotFoundError(f"{folder} has no {WEIGHTS}: copy the adapter again")
    tensors = load_tensors(require_regular(weights))
    require_finite(tensors, weights)
    factors = _pair(tensors, weights)
    for key, (a, b) in factors.items():
        _check_factors(key, a, b, ranks.rank(key), modules, weights)
    strength = ranks.strength("")
    # Layers whose strength is another one have it in their second factor.
    factors = {key: (a, b * (ranks.strength(key) / strength)) for key, (a, b) in factors.items()}
    return Adapter(name, check_scale(scale), factors, strength, sha256_of(weights), _base(weights))


def change_modules(
    modules: Mapping[str, nn.Module], adapters: Iterable[Adapter]
) -> dict[str, nn.Module]:
    """Return copies of the modules that the adapters change, by name; the others are left out.

    Adapters of scale 0 change nothing, so their modules are left out, too.
    """
    changed: dict[str, nn.Module] = {}
    for adapter in sorted(adapters, key=lambda one: one.name):
        if adapter.scale == 0.0:
            continue
        for key, (a, b) in adapter.factors.items():
            part, layer = key.split(".", 1)
            if part not in changed:
                changed[part] = copy.deepcopy(modules[part])
            target = changed[part].get_submodule(layer)
            weight = target.weight
            assert isinstance(weight, Tensor)
            delta = _product(target, a.to(weight.device), b.to(weight.device))
            with torch.no_grad():
                weight += (adapter.scale * adapter.strength * delta).to(weight.dtype)
    return changed


def replace_scales(
    adapters: Iterable[Adapter], names: str | Iterable[str], scales: float | Iterable[float]
) -> tuple[Adapter, ...]:
    """Return the adapters with new scales; those that are not named get 0.

    names, scales: one scale per name, or one scale for all.

    Raises InvalidInputError for an unknown name, or another number of scales.
    """
    held = {one.name: one for one in adapters}
    wanted = [names] if isinstance(names, str) else list(names)
    given = [scales] * len(wanted) if isinstance(scales, (int, float)) else list(scales)
    if len(given) != len(wanted):
        raise InvalidInputError(
            f"{len(wanted)} adapters and {len(given)} scales: give one scale for each"
        )
    require_known(held, wanted)
    new = dict(zip(wanted, map(check_scale, given), strict=True))
    return tuple(dataclasses.replace(one, scale=new.get(one.name, 0.0)) for one in held.values())


def require_known(held: Iterable[str], names: Iterable[str]) -> None:
    """Raise InvalidInputError unless all adapters in ``names`` are loaded."""
    held = list(held)
    if unknown := [name for name in names if name not in held]:
        have = f"loaded are {', '.join(held)}" if held else "none is loaded"
        raise InvalidInputError(f"no adapter {unknown[0]!r}: {have} (world.load_adapter)")


def describe(adapters: Mapping[str, float]) -> str:
    """Return adapters and their scales as a text for errors."""
    on = [f"{name} at {scale:g}" for name, scale in sorted(adapters.items()) if scale]
    return f"adapters {', '.join(on)}" if on else "no adapter"


@dataclass(frozen=True)
class _Ranks:
    """Ranks and ``lora_alpha`` of an adapter's layers, as peft writes them.

    ranks, alphas: those of layers that have others, by the ends of their names.
    """

    r: int
    alpha: float
    root: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]

    def rank(self, layer: str) -> int:
        """Return the rank of a layer ``PART.LAYER``."""
        return _named(self.ranks, layer, self.r)

    def strength(self, layer: str) -> float:
        """Return the factor of a layer's product."""
        rank = self.rank(layer)
        return _named(self.alphas, layer, self.alpha) / (math.sqrt(rank) if self.root else rank)


def _named(pattern: Mapping[str, _Value], layer: str, default: _Value) -> _Value:
    """Return the value of a layer; keys that are not plain names never match."""
    ends = (key for key in pattern if layer == key or layer.endswith(f".{key}"))
    found = next(ends, None)
    return default if found is None else pattern[found]


def _is_rank(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_RANK


def _is_alpha(value: object) -> TypeGuard[float]:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < MOST_ALPHA
    )


def _read_config(folder: Path) -> _Ranks:
    """Return ranks and strengths of an adapter. Raises DamagedFileError."""
    path = inside(folder, CONFIG)
    config = read_json(path)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise DamagedFileError(f"{path} describes an adapter of type {kind!r}: only LORA is read")
    for key, plain in _PLAIN.items():
        value = config.get(key, plain)
        if value != plain and not (not value and not plain):
            raise DamagedFileError(
                f"{path} has {key} = {str(value)[:80]}: only plain LoRA is read; train with "
                f"{key} = {plain!r}"
            )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    checks: dict[str, Callable[[object], bool]] = {"rank": _is_rank, "alpha": _is_alpha}
    patterns = {name: config.get(f"{name}_pattern") or {} for name in checks}
    for name, pattern in patterns.items():
        if not isinstance(pattern, dict) or not all(map(checks[name], pattern.values())):
            raise DamagedFileError(
                f"{path} has {name}_pattern = {str(pattern)[:80]}: a number for each of some "
                f"layers is needed; copy the adapter again"
            )
    if not _is_rank(rank) or not _is_alpha(alpha) or not alpha:
        raise DamagedFileError(
            f"{path} has r = {str(rank)[:20]} and lora_alpha = {str(alpha)[:20]}: a whole number "
            f"from 1 and a number are needed; copy the adapter again"
        )
    return _Ranks(rank, alpha, config.get("use_rslora") is True, *patterns.values())


def _base(weights: Path) -> str:
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        return str((file.metadata() or {}).get(BASE, ""))[:64]


def _pair(tensors: Mapping[str, Tensor], source: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A and B by ``PART.LAYER``. Raises DamagedFileError for other tensors."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _FACTOR.fullmatch(name.removeprefix(PREFIX))
        if match is None or not tensor.is_floating_point():
            raise DamagedFileError(
                f"{source} has a tensor {name[:120]!r}, which is no factor of a LoRA adapter: give "
                f"one that `worldsim train --adapter` wrote"
            )
        part, layer, _, factor = match.groups()
        found.setdefault(f"{part}.{layer}", {})[factor] = tensor.float()
    for key, factors in found.items():
        if len(factors) != 2:
            raise DamagedFileError(
                f"{source} has one factor of {key} without the other: copy the adapter again"
            )
    if not found:
        raise DamagedFileError(f"{source} has no tensors: copy the adapter again")
    return {key: (factors["A"], factors["B"]) for key, factors in found.items()}


def _check_factors(
    key: str, a: Tensor, b: Tensor, rank: int, modules: Mapping[str, nn.Module], source: Path
) -> None:
    """Raise InvalidInputError unless the world has this layer, with weights of these shapes."""
    part, layer = key.split(".", 1)
    try:
        target = modules[part].get_submodule(layer)
    except (KeyError, AttributeError):
        raise InvalidInputError(
            f"{source} changes {key}, which this world does not have: load the adapter into the "
            f"world that it was trained on, or one of the same architecture"
        ) from None
    # Where peft runs other adapters already, it holds the layer.
    base = getattr(target, "base_layer", target)
    shapes = factor_shapes(base, rank) if isinstance(base, nn.Module) else None
    found = tuple(a.shape), tuple(b.shape)
    if shapes != found:
        wanted = f"{shapes[0]} and {shapes[1]}" if shapes else "nothing"
        raise InvalidInputError(
            f"{source} changes {key} by factors of shapes {found[0]} and {found[1]}, and this "
            f"world takes {wanted} at rank {rank}: load the adapter into the world that it was "
            f"trained on, or one of the same architecture"
        )


def factor_shapes(layer: nn.Module, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return the shapes of A and B for a layer, as peft has them; None for other layers."""
    if isinstance(layer, nn.Linear):
        return (rank, layer.in_features), (layer.out_features, rank)
    if isinstance(layer, nn.Embedding):
        return (rank, layer.num_embeddings), (layer.embedding_dim, rank)
    if isinstance(layer, (nn.Conv2d, nn.Conv3d)) and layer.groups == 1:
        kernel = tuple(layer.kernel_size)
        ones = (1,) * len(kernel)
        return (rank, layer.in_channels, *kernel), (layer.out_channels, rank, *ones)
    return None


def parameters_of(
    modules: Mapping[str, nn.Module], layers: Iterable[str], rank: int | Mapping[str, int]
) -> tuple[int, int]:
    """Return the numbers of parameters of an adapter of this rank, and of all modules.

    layers: names ``PART.LAYER``; ``LAYER`` alone if there is one module.
    rank: of all layers, or by layer.
    """
    own, parts = 0, nn.ModuleDict(dict(modules))
    only = next(iter(modules)) if len(modules) == 1 else ""
    for name in layers:
        path = name if name.partition(".")[0] in modules else f"{only}.{name}"
        layer = parts.get_submodule(path)
        base = getattr(layer, "base_layer", layer)
        assert isinstance(base, nn.Module)
        shapes = factor_shapes(base, rank if isinstance(rank, int) else rank[name])
        assert shapes is not None
        own += sum(math.prod(shape) for shape in shapes)
    return own, sum(p.numel() for module in modules.values() for p in module.parameters())


def check_share(modules: Mapping[str, nn.Module], layers: Iterable[str], rank: int) -> None:
    """Raise InvalidInputError if an adapter has more than 5% of the modules' parameters."""
    own, whole = parameters_of(modules, layers, rank)
    if own <= SHARE * whole:
        return
    most = int(rank * SHARE * whole / own)
    advice = f"at most {most} fits" if most else "it is too small for an adapter"
    raise InvalidInputError(
        f"an adapter of rank {rank} has {own:,} parameters, {own / whole:.1%} of {whole:,}; the "
        f"limit is {SHARE:.0%}: {advice}"
    )


def _product(layer: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    """Return the change of a layer's weight, in its shape."""
    product = b.flatten(1) @ a.flatten(1)
    if isinstance(layer, nn.Embedding):
        return product.T
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return product.view_as(weight)
