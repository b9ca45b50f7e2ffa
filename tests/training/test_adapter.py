"""Training adapters: the world stays as it is, and what is written is peft's, and small."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.training import assert_equal, state_of
from tests.helpers.training import train_config as config
from tests.helpers.worlds import make_tiny_world
from worldsim.diffusion.network import Condition, band_mask
from worldsim.errors import InvalidInputError, MissingDependencyError
from worldsim.runtime.json_config import read_json
from worldsim.training.adapter import AdapterTrainer, adapted_layers, compress
from worldsim.training.train import TrainConfig, train
from worldsim.world import World
from worldsim.world.adapters import CONFIG, WEIGHTS, parameters_of

pytest.importorskip("peft", reason="needs the extra adapter")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_world().save_pretrained(tmp_path_factory.mktemp("base") / "base")


def settings(rooms: Path, out: Path, base: Path, **changes: Any) -> TrainConfig:
    given: dict[str, Any] = {"init_from": str(base), "adapter": 2, "learning_rate": 0.02}
    return config(rooms, out, **(given | changes))


def bits(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def predict(network: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    condition = Condition(
        act=torch.tensor([[1, 2]]),
        motion=torch.randn(1, 2, 6, generator=generator),
        rays=torch.randn(1, 2, 6, 4, 4, generator=generator),
        view=torch.randn(1, 2, 8, 32, 32, generator=generator),
    )
    x = torch.randn(1, 2, 4, 32, 32, generator=generator)
    with torch.no_grad():
        return network(x, torch.full((1, 2), 0.5), condition, band_mask(2, 4)[None],
                       torch.arange(2))[0]  # fmt: skip


def test_an_adapter_is_trained_and_loaded(tmp_path: Path, rooms: Path, base: Path) -> None:
    before = bits(base)
    own = World.from_pretrained(base, device="cpu")
    trainer = AdapterTrainer(settings(rooms, tmp_path, base))
    trainer.wait_for_data()
    # It starts as the world, bit by bit.
    assert torch.equal(predict(trainer.network), predict(own.network))
    for _ in range(2):
        trainer.train_step()
    trainer.save()
    after = trainer.averages()
    for part, module in (("network", own.network), ("ego_motion", own.ego_motion)):
        for name, value in module.state_dict().items():
            layer, _, kind = name.rpartition(".")
            found = after.get(f"{part}.{name}", after.get(f"{part}.{layer}.base_layer.{kind}"))
            assert found is not None and torch.equal(found, value), name
    assert bits(base) == before

    # Convolutional levels, too, where that is asked for; every layer runs.
    wide = AdapterTrainer(settings(rooms, tmp_path / "w", base, adapter_layers="pixels"))
    assert torch.equal(predict(wide.network), predict(own.network))
    assert "dynamics.decoder.0.conv1" in wide._peft["target_modules"]
    every = AdapterTrainer(settings(rooms, tmp_path / "e", base, adapter=1, adapter_layers="all"))
    assert torch.equal(predict(every.network), predict(own.network))
    assert {"dynamics.stem", "dynamics.up.0"} <= set(every._peft["target_modules"])

    # What is left is peft's format, at most 5% of the parameters.
    adapter = tmp_path / "adapter"
    assert {p.name for p in adapter.iterdir()} == {CONFIG, WEIGHTS}
    tensors, held = load_file(adapter / WEIGHTS), own.modules()
    count = parameters_of(held, adapted_layers(held), 2)
    assert sum(x.numel() for x in tensors.values()) == count[0] <= 0.05 * count[1]
    assert read_json(tmp_path / "adapter.json")["parameters"] == count[0]
    changed = trainer.world()
    assert changed.adapters == {"adapter": 1.0}
    assert torch.equal(predict(changed.network), predict(own.network))
    merged = predict(changed.dynamics.network)
    assert not torch.equal(merged, predict(own.network))
    off = World.from_pretrained(base, device="cpu").load_adapter(tmp_path, scale=0.0)
    assert torch.equal(predict(off.dynamics.network), predict(own.network))

    # peft itself loads it, and computes the same.
    from peft import PeftModel

    modules = torch.nn.ModuleDict(World.from_pretrained(base, device="cpu").modules())
    live = PeftModel.from_pretrained(modules, str(adapter)).base_model.model["dynamics"]
    torch.testing.assert_close(predict(live), merged, atol=1e-4, rtol=1e-4)


def test_all_layers_are_adapted_from_what_a_probe_changed(
    tmp_path: Path, rooms: Path, base: Path
) -> None:
    """It starts as the probe's change in few numbers, and is resumed from the same start."""
    asked = settings(
        rooms, tmp_path, base, adapter=8, adapter_layers="all", adapter_probe=2,
        adapter_rate_ratio=4.0,
    )  # fmt: skip
    trainer = AdapterTrainer(asked)
    held = World.from_pretrained(base, device="cpu").modules()
    tensors = trainer.adapter_tensors()
    assert sum(x.numel() for x in tensors.values()) <= 0.05 * parameters_of(held, (), 1)[1]
    pattern = trainer._peft["rank_pattern"]
    assert pattern and trainer._peft["alpha_pattern"] == pattern
    assert all(1 <= rank <= 8 for rank in pattern.values())
    assert sorted({group["peak"] for group in trainer.optimizer.param_groups})[-1] == 0.08
    trainer.wait_for_data()
    trainer.train_step()
    trainer.save()
    other = AdapterTrainer(asked)
    assert other.resume()
    assert_equal(trainer.adapter_tensors(), other.adapter_tensors())
    # Worlds read the ranks, and run what was trained.
    merged = predict(trainer.world().dynamics.network)
    torch.testing.assert_close(predict(other.network), merged, atol=0.05, rtol=0.05)
    assert not torch.equal(merged, predict(held["dynamics"]))


def test_changes_are_approximated_where_they_are_large() -> None:
    """Of two layers, the one that changed has all of the room, by hand."""
    before, after = (make_tiny_world().modules() for _ in range(2))
    qkv, conv = "dynamics.blocks.0.temporal.qkv", "dynamics.encoder.0.conv1"
    with torch.no_grad():
        weight = after["dynamics"].get_submodule("encoder.0.conv1").weight
        weight[0] += 1.0  # type: ignore[operator, index]
    found = compress(before, after, [qkv, conv], 4)
    assert set(found) == {conv} and len(found[conv][0]) == 1
    a, b = found[conv]
    change = (b.flatten(1) @ a.flatten(1)).view_as(weight)  # type: ignore[arg-type]
    torch.testing.assert_close(change[0], torch.ones_like(change[0]), atol=1e-5, rtol=0)
    assert change[1:].abs().max() < 1e-5


def test_it_resumes_bit_for_bit(tmp_path: Path, rooms: Path, base: Path) -> None:
    one = AdapterTrainer(settings(rooms, tmp_path, base))
    one.wait_for_data()
    one.train_step()
    one.save()
    two = AdapterTrainer(settings(rooms, tmp_path, base))
    assert two.resume()
    two.wait_for_data()
    one.train_step()
    two.train_step()
    assert_equal(state_of(one), state_of(two))


def test_what_cannot_be_adapted_is_refused(
    tmp_path: Path, rooms: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInputError, match="--adapter 16 adapts a world: name it with --init"):
        train(settings(rooms, tmp_path, base, adapter=16, init_from=None))
    with pytest.raises(InvalidInputError, match=r"rank 64 has .*% of .* at most \d+ fits"):
        train(settings(rooms, tmp_path, base, adapter=64))
    with pytest.raises(InvalidInputError, match="needs another outcome than"):
        train(settings(rooms, tmp_path, base, head_input="frames"))
    with pytest.raises(InvalidInputError, match="--carry-megabytes 8 carries all weights"):
        train(settings(rooms, tmp_path, base, carry_megabytes=8.0))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependencyError, match=r"pip install '.\[adapter\]'"):
        train(settings(rooms, tmp_path, base))
