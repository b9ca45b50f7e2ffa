"""Adapters: small changes of a world's weights, trained on one's own data.

``worldsim train --adapter 16 --init-from WORLD`` trains LoRA (Hu et al. 2021) through peft, on the
layers that carry time (:data:`TARGETS`). Every change starts at zero, so training starts from the
world as it is, and the world's own weights never change. The inputs of action and camera are among
them: a change of a linear input is a second input beside it, which starts at zero, as in SimDA
(Xing et al. 2023) and CameraCtrl (He et al. 2024).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.diffusion.network import Upsampled
from worldsim.errors import InvalidInputError
from worldsim.protocols import Painter
from worldsim.runtime.extras import missing
from worldsim.runtime.files import (
    is_file,
    load_tensors,
    make_writable_folder,
    replacing_folder,
    save_tensors,
    storage_errors,
)
from worldsim.runtime.json_config import to_json, write_json
from worldsim.runtime.types import JsonObject
from worldsim.training.config import AdapterLayers, TrainConfig
from worldsim.training.factory import Modules
from worldsim.training.loss import TrainingLoss
from worldsim.training.trainer import Trainer
from worldsim.world import World
from worldsim.world.adapters import (
    BASE,
    CONFIG,
    PREFIX,
    SHARE,
    WEIGHTS,
    check_share,
    factor_shapes,
    parameters_of,
)
from worldsim.world.frame_outcome import FrameOutcomeHead

ADAPTER = "adapter"
"""Folder of the adapter in the folder of its training, and its name there."""
TARGETS = {
    "dynamics": (
        r"blocks\.\d+\.temporal\.(qkv|out)",  # the temporal layers
        r"action|modulation",  # the action's input
        r"rays|motion\.[02]",  # the camera's inputs
    ),
    "ego_motion": (r"(unhindered|correction)\..*",),
    "outcome": (r".*",),
}
"""By module of the world, the names of the layers that are adapted, as regular expressions."""
FURTHER = {
    AdapterLayers.TEMPORAL: (),
    AdapterLayers.PIXELS: (r"out|down\.\d+|(encoder|decoder)\.\d+\.(conv[12]|modulation)",),
    AdapterLayers.ALL: (r".*",),
}
"""Further layers of the network by the setting."""
Factors = dict[str, tuple[Tensor, Tensor]]
"""By layer ``PART.LAYER``, the matrices A and B of a change ``B @ A``."""
PROBE = "probe.safetensors"
PROBE_RATE = 0.05
"""Learning rate of all weights over that of an adapter."""
ROW = 3.0**0.5
"""Rows of peft's first factors have length 1 / ROW in the mean."""
_LOSS_NAMES = {"network": "dynamics", "ego_motion": "ego_motion", "outcome": "outcome"}
"""Names of the modules in the loss, and in a world."""


class AdapterTrainer(Trainer):
    """Trains an adapter of the world ``config.init_from``; see :class:`Trainer`.

    Raises InvalidInputError without a world, for a run that is carried over, for frames of another
    size than the world's, and for a rank that takes more than 5% of the world's parameters;
    MissingDependencyError without peft.
    """

    result = ADAPTER

    def __init__(self, config: TrainConfig, painter: Painter | None = None) -> None:
        if config.adapter < 1 or config.init_from is None:
            raise InvalidInputError(
                f"--adapter {config.adapter} adapts a world: name it with --init-from"
            )
        if config.carry_megabytes is not None:
            raise InvalidInputError(
                f"--carry-megabytes {config.carry_megabytes:g} carries all weights to another "
                f"machine: leave it out with --adapter, and copy the folder of the training"
            )
        self._base = World.from_pretrained(config.init_from, device="cpu")
        self._probed = probe(config, painter, self._base) if config.adapter_probe else None
        super().__init__(config, painter)

    def _modules(self) -> Modules:
        """Return the world's modules with new adapters in their layers."""
        network, ego, outcome = super()._modules()
        held = self._base.modules()
        given = {"dynamics": network, "outcome": outcome, "ego_motion": ego}
        for name, module in given.items():
            if module is not None and module.settings != held[name].settings:
                raise InvalidInputError(
                    f"--adapter {self.config.adapter}: the recording needs another {name} than "
                    f"{self.config.init_from} has (frames of another size, or --head-input): leave "
                    f"--adapter out, or record with the world's settings"
                )
        modules = {name: module for name, module in given.items() if module is not None}
        if self._probed is None:
            layers = adapted_layers(modules, self.config.adapter_layers)
            check_share(modules, layers, self.config.adapter)
            self._peft = inject(modules, dict.fromkeys(layers, self.config.adapter))
        else:
            ranks = {layer: len(a) for layer, (a, _) in self._probed.items()}
            self._peft = inject(modules, ranks)
            set_factors(modules, self._probed)
        return network, ego, outcome

    def _parameter_groups(self, loss: TrainingLoss) -> list[dict[str, Any]]:
        """Split each group in first factors and second factors, see ``adapter_rate_ratio``."""
        groups, ratio = super()._parameter_groups(loss), self.config.adapter_rate_ratio
        if ratio == 1.0:
            return groups
        second = {
            id(p)
            for name, p in loss.named_parameters()
            if re.search(r"\.lora_(embedding_)?B", name)
        }
        divided = []
        for group in groups:
            for is_second, peak in ((False, group["peak"]), (True, group["peak"] * ratio)):
                params = [p for p in group["params"] if (id(p) in second) is is_second]
                divided.append({**group, "params": params, "peak": peak})
        return divided

    def _measure_outcomes(self) -> None:
        """Keep the heads' units: they are the world's."""
        if isinstance(self.outcome, FrameOutcomeHead) and len(self.buffer):
            assert self.transitions is not None
            self.transitions.refresh()

    def adapter_tensors(self) -> dict[str, Tensor]:
        """Return the averaged weights of the adapter by peft's names, on the CPU."""
        tensors = {}
        for name, value in self.averages().items():
            if ".lora_" in name:
                part, layer = name.split(".", 1)
                plain = layer.replace(f".{ADAPTER}", "")
                tensors[f"{PREFIX}{_LOSS_NAMES[part]}.{plain}"] = value.detach().cpu().contiguous()
        return tensors

    def write_adapter(self, folder: Path) -> None:
        """Write the adapter, averaged, as peft does. Raises StorageError."""
        with replacing_folder(folder) as new:
            write_json(new / CONFIG, {**self._peft, "base_model_name_or_path": self._base_name()})
            header = {"format": "pt", BASE: self._base.weights_id}
            save_tensors(self.adapter_tensors(), new / WEIGHTS, header)

    def _base_name(self) -> str:
        source = self._base.card.get("source")
        return str(source or self.config.init_from)

    def world(self, measured: JsonObject | None = None) -> World:
        """Return the world with the adapter loaded, on the CPU."""
        folder = self.config.out / ADAPTER
        self.write_adapter(folder)
        return World.from_pretrained(str(self.config.init_from), device="cpu").load_adapter(folder)

    def _write_world(self, world: World) -> None:
        """Write the card of the training; :meth:`world` has written the adapter."""
        card = {
            "base": self._base_name(),
            "trained_on": self.dataset.info.env_id,
            "frames": self.frames,
            "parameters": sum(x.numel() for x in self.adapter_tensors().values()),
            "steps": self.step,
            "minutes": round(self.elapsed / 60, 2),
            "config": self._settings(),
        }
        with storage_errors(self.config.out / "adapter.json"):
            write_json(self.config.out / "adapter.json", to_json(card))


def adapted_layers(
    modules: Mapping[str, nn.Module], which: AdapterLayers = AdapterLayers.TEMPORAL
) -> list[str]:
    """Return the names ``PART.LAYER`` of the layers that are adapted."""
    targets = {**TARGETS, "dynamics": (*TARGETS["dynamics"], *FURTHER[which])}
    return [
        f"{part}.{name}"
        for part, module in modules.items()
        for name, layer in module.named_modules()
        if factor_shapes(layer, 1) is not None
        and any(re.fullmatch(pattern, name) for pattern in targets.get(part, ()))
    ]


def probe(config: TrainConfig, painter: Painter | None, base: World) -> Factors:
    """Train all weights for ``config.adapter_probe`` steps; returns the change in few numbers.

    The change is approximated by matrices of low rank (:func:`compress`), which are kept in the
    file ``probe.safetensors``, for runs that are resumed.
    """
    file = config.out / PROBE
    if not is_file(file):
        steps, rate = config.adapter_probe, PROBE_RATE * config.learning_rate
        trainer = Trainer(
            dataclasses.replace(
                config,
                adapter=0,
                adapter_probe=0,
                steps=steps,
                minutes=None,
                warmup=max(1, steps // 8),
                decay=0.0,
                learning_rate=rate,
                motion_learning_rate=rate,
            ),
            painter,
        )
        trainer.wait_for_data()
        for _ in range(steps):
            trainer.train_step()
        before, after = base.modules(), trainer.world().modules()
        layers = adapted_layers(before, config.adapter_layers)
        factors = compress(before, after, layers, config.adapter)
        named = {
            f"{layer}.{x}": t
            for layer, ab in factors.items()
            for x, t in zip("AB", ab, strict=True)
        }
        make_writable_folder(config.out)
        save_tensors(named, file, {"format": "pt"})
    tensors = load_tensors(file)
    layers = sorted({name[:-2] for name in tensors})
    return {layer: (tensors[f"{layer}.A"], tensors[f"{layer}.B"]) for layer in layers}


def compress(
    before: Mapping[str, nn.Module],
    after: Mapping[str, nn.Module],
    layers: Iterable[str],
    most: int,
) -> Factors:
    """Return the factors of the layers' changes that hold most of them within 5% of parameters.

    Singular vectors of all layers are taken by their squared singular value per parameter. Rows of
    the first factors have the length of new ones of peft's.

    most: largest rank of a layer.
    """
    taken: list[tuple[float, str, int]] = []
    parts, costs = {}, {}
    for name in layers:
        part, path = name.split(".", 1)
        layer, changed = before[part].get_submodule(path), after[part].get_submodule(path)
        change = (changed.weight.detach().cpu() - layer.weight.detach().cpu()).float()  # type: ignore[operator]
        matrix = change.T if isinstance(layer, nn.Embedding) else change.flatten(1)
        parts[name] = torch.linalg.svd(matrix, full_matrices=False)
        costs[name] = sum(matrix.shape)
        values = parts[name].S[:most]
        taken += [(float(x) ** 2 / costs[name], name, i) for i, x in enumerate(values)]
    room = SHARE * parameters_of(before, (), 1)[1]
    ranks: dict[str, int] = {}
    for gain, name, _ in sorted(taken, reverse=True):
        if gain > 0.0 and costs[name] <= room:
            ranks[name] = ranks.get(name, 0) + 1
            room -= costs[name]
    factors = {}
    for name, rank in ranks.items():
        part, path = name.split(".", 1)
        shapes = factor_shapes(before[part].get_submodule(path), rank)
        assert shapes is not None
        u, s, v = (x[..., :rank] for x in (parts[name].U, parts[name].S, parts[name].Vh.T))
        a, b = v.T / ROW, u * s * ROW
        factors[name] = (a.reshape(shapes[0]).contiguous(), b.reshape(shapes[1]).contiguous())
    return factors


def set_factors(modules: Mapping[str, nn.Module], factors: Factors) -> None:
    """Set the matrices of an adapter in its layers, in place."""
    for name, pair in factors.items():
        part, path = name.split(".", 1)
        layer: Any = modules[part].get_submodule(path)
        for factor, value in zip("AB", pair, strict=True):
            plain, embedding = (getattr(layer, f"lora_{x}{factor}") for x in ("", "embedding_"))
            held = plain[ADAPTER].weight if ADAPTER in plain else embedding[ADAPTER]
            with torch.no_grad():
                held.copy_(value)


def inject(modules: Mapping[str, nn.Module], ranks: Mapping[str, int]) -> JsonObject:
    """Put a new adapter into layers, in place; returns its settings as peft writes them.

    ranks: by layer, ``PART.LAYER``.

    Only the adapter's parameters are trained from then on.

    Raises MissingDependencyError without peft.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora.layer import Conv2d as LoraConv2d
    except ImportError as error:
        raise missing("adapters are trained with peft", "adapter", error) from error

    class LoraUpsampled(LoraConv2d):
        """LoRA of a convolution whose channels become pixels: so do those of its change."""

        def update_layer(self, *arguments: Any, **named: Any) -> None:
            """Add factors that are plain convolutions: peft makes them of the layer's class."""
            base = self.get_base_layer()
            base.__class__ = nn.Conv2d
            try:
                super().update_layer(*arguments, **named)
            finally:
                base.__class__ = Upsampled

        def forward(self, x: Tensor) -> Tensor:
            """Map (m, c, h, w) to (m, a, 2 h, 2 w)."""
            change = self.lora_B[ADAPTER](self.lora_A[ADAPTER](x)) * self.scaling[ADAPTER]
            return self.base_layer(x) + F.pixel_shuffle(change, 2)

    names, rank = sorted(ranks), max(ranks.values())
    # As strong in every layer: alpha is the rank.
    other = {name: ranks[name] for name in names if ranks[name] != rank}
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=names,
        rank_pattern=other,
        alpha_pattern=other,
        bias="none",
    )
    config._register_custom_module({Upsampled: LoraUpsampled})
    whole = nn.ModuleDict(dict(modules))
    inject_adapter_in_model(config, whole, adapter_name=ADAPTER)
    for name, parameter in whole.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    settings: dict[str, Any] = {
        k: sorted(v) if isinstance(v, (set, frozenset)) else v for k, v in config.to_dict().items()
    }
    settings["target_modules"] = names
    settings["inference_mode"] = True
    return {k: v for k, v in settings.items() if _is_plain(v)}


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, list, dict))
