"""Training: from a recording to a world on disk, resumed bit for bit, and errors that leave
everything as it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.files import largest_file
from tests.helpers.launching import launched, run
from tests.helpers.recordings import recording
from tests.helpers.training import assert_equal, started, state_of
from tests.helpers.training import train_config as config
from worldsim.data import starts
from worldsim.data.dataset import EpisodeDataset, EpisodeWriter
from worldsim.errors import (
    DamagedFileError,
    InvalidInputError,
    MissingGeometryError,
    NotFoundError,
    StorageError,
)
from worldsim.runtime.json_config import read_json, write_sealed
from worldsim.state import SceneStart
from worldsim.training.corruption import PerturbConfig
from worldsim.training.loss import LossConfig
from worldsim.training.tally import Tally
from worldsim.training.train import TrainConfig, Trainer, train
from worldsim.world import World, engine
from worldsim.world.engine import compile_in_place
from worldsim.world.scene_files import load_scene, save_scene, scene_names

SIZE = 32


@pytest.fixture(scope="module")
def continuous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Continuous actions, with bounds written down that are not -1 and 1."""
    out = recording(tmp_path_factory.mktemp("recorded") / "continuous", continuous=True)
    index = json.loads((out / "dataset.json").read_text())
    index["action_space"] = {"type": "Box", "low": [-2.0, 0.0], "high": [1.0, 3.0]}
    write_sealed(out / "dataset.json", index)
    return out


def alive(network: torch.nn.Module) -> None:
    """Random weights where layers start at zero, so that everything has an effect."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            if not weight.any():
                weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))


def fingerprints(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def command(settings: TrainConfig) -> list[str]:
    """The arguments of ``worldsim`` that train with these settings."""
    arguments = ["train", "--memory" if settings.memory else "--no-memory"]
    for name in (
        "data", "out", "preset", "steps", "batch_size", "window", "warmup", "memory_capacity",
        "world_memory_capacity", "mixed_precision", "save_every",
    ):  # fmt: skip
        value = getattr(settings, name)
        arguments += [
            f"--{name.replace('_', '-')}",
            *map(str, value if isinstance(value, tuple) else (value,)),
        ]
    return arguments


def test_trains_a_world(tmp_path: Path, rooms: Path) -> None:
    """What is left on disk: a checkpoint, a history, pictures and a world with the averaged
    weights."""
    world = train(config(rooms, tmp_path, mirror_actions=(0, 1, 2, 4, 3, 6, 5), sample_every=2))
    assert {p.name for p in tmp_path.iterdir()} == {
        "checkpoint",
        "history.json",
        "samples",
        "tensorboard",
        "world",
    }
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == [
        "step-000002.png",
        "step-000003.png",
    ]
    (entry,) = read_json(tmp_path / "history.json")
    assert entry["step"] == 3 and all(math.isfinite(v) for v in entry.values())
    loaded = World.from_pretrained(tmp_path / "world", device="cpu")
    c, card = loaded.config, loaded.card
    assert (c.env_id, c.env_kwargs, c.fps) == ("worldsim/TinyRoom-v0", {"size": SIZE}, 10.0)
    assert (c.intrinsics, c.action_low, c.action_high) == ((16.0, 16.0, 16.0, 16.0), None, None)
    assert not c.has_rewards and not c.has_terminations
    assert c.memory is not None and c.memory.capacity == 2048
    assert (card["trained_on"], card["frames"], card["training"]["steps"]) == (
        "worldsim/TinyRoom-v0",
        128,
        3,
    )
    assert card["train_maps"] == sorted({e.info["map"] for e in EpisodeDataset(rooms)})
    # The averages of the checkpoint, parameter by parameter.
    saved = load_file(tmp_path / "checkpoint" / "state.safetensors")
    names = [n for n, _ in Trainer(config(rooms, tmp_path)).loss_module.named_parameters()]
    weights = {f"network.{k}": v for k, v in loaded.network.state_dict().items()}
    weights |= {f"outcome.{k}": v for k, v in loaded.outcome.state_dict().items()}
    assert loaded.ego_motion is not None
    weights |= {f"ego_motion.{k}": v for k, v in loaded.ego_motion.state_dict().items()}
    assert [n for i, n in enumerate(names) if not torch.equal(saved[f"ema.{i}"], weights[n])] == []
    assert any(not torch.equal(saved[f"model.{n}"], weights[n]) for n in names)
    for name, value in world.network.state_dict().items():
        assert torch.equal(value.cpu(), weights[f"network.{name}"])
    # Motions are learnt in units of what was recorded.
    assert not torch.equal(loaded.ego_motion.scale, torch.full((6,), 0.1))


def test_learning_rate_by_hand(tmp_path: Path, rooms: Path) -> None:
    """Ten steps, four of warm-up, decay over the last half: 1/4, 2/4, 3/4, 1, 1, 1, 0.8, 0.6, 0.4,
    0.2."""
    trainer = Trainer(config(rooms, tmp_path, steps=10, warmup=4, decay=0.5))
    rates = []
    for trainer.step in range(10):
        rates.append(trainer._rate())
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2])
    timed = Trainer(config(rooms, tmp_path, minutes=2.0))
    timed.elapsed = 30.0
    assert timed.progress == 0.25


@pytest.mark.parametrize("kind", ["rooms", "blind", "continuous"])
def test_a_resumed_run_is_the_same_run(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    """Four steps at once, or two, a checkpoint, and two more in another trainer: every tensor is
    equal."""
    settings = config(request.getfixturevalue(kind), tmp_path, steps=4, memory=kind == "rooms")
    through = started(settings)
    assert not through.resume()
    for step in range(4):
        if step == 2:
            through.save()
            half = state_of(through)
        assert math.isfinite(float(through.train_step()["loss"].detach()))
    resumed = Trainer(settings)
    assert resumed.resume() and resumed.step == 2
    assert_equal(state_of(resumed), half)
    resumed.wait_for_data()
    for _ in range(2):
        resumed.train_step()
    assert_equal(state_of(resumed), state_of(through))


@pytest.mark.slow
def test_a_killed_run_goes_on_exactly(tmp_path: Path, rooms: Path) -> None:
    """Killed without warning somewhere in the middle and run again: the weights of a run that
    nobody disturbed."""
    through = config(rooms, tmp_path / "through", steps=30, save_every=4)
    killed = dataclasses.replace(through, out=tmp_path / "killed")
    run("worldsim", *command(through))
    written = killed.out / "checkpoint" / "checkpoint.json"
    with launched("worldsim", *command(killed)) as process:
        deadline = time.monotonic() + 240
        while not written.is_file():
            assert process.is_running() and time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.3)
        assert process.is_running()
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = [f / "checkpoint.json" for f in (written.parent, killed.out / ".checkpoint.old")]
    reached = read_json(next(f for f in left if f.is_file()))["step"]
    assert 4 <= reached < 30
    run("worldsim", *command(killed))
    assert read_json(written)["step"] == 30
    assert_equal(
        *(load_file(c.out / "checkpoint" / "state.safetensors") for c in (through, killed))
    )
    worlds = [
        load_file(c.out / "world" / "dynamics" / "diffusion_pytorch_model.safetensors")
        for c in (through, killed)
    ]
    assert_equal(*worlds)


def test_a_kill_between_two_renames_loses_nothing(tmp_path: Path, rooms: Path) -> None:
    """Then only the checkpoint before is there, under its other name; it is used, and kept until
    there is a new one."""
    settings = config(rooms, tmp_path)
    trainer = started(settings)
    trainer.train_step()
    trainer.save()
    os.replace(tmp_path / "checkpoint", tmp_path / ".checkpoint.old")
    resumed = Trainer(settings)
    assert resumed.resume() and resumed.step == 1
    assert_equal(state_of(resumed), state_of(trainer))
    resumed.save()
    assert (tmp_path / "checkpoint" / "checkpoint.json").is_file() and not (
        tmp_path / ".checkpoint.old"
    ).exists()


def test_a_finished_run_is_finished(tmp_path: Path, rooms: Path) -> None:
    """Run again, it gives the same world without a step; with more steps, it goes on."""
    first = train(config(rooms, tmp_path))
    again = train(config(rooms, tmp_path))
    assert_equal(first.network.state_dict(), again.network.state_dict())
    more = train(config(rooms, tmp_path, steps=4))
    assert more.card["training"]["steps"] == 4
    assert not torch.equal(first.network.position, more.network.position)


def truncate(checkpoint: Path) -> None:
    file = checkpoint / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def remove_weights(checkpoint: Path) -> None:
    (checkpoint / "state.safetensors").unlink()


def lose_tensors(checkpoint: Path) -> None:
    save_file({"model.nothing": torch.zeros(1)}, checkpoint / "state.safetensors")


def garble(checkpoint: Path) -> None:
    (checkpoint / "checkpoint.json").write_text('{"format": "worlds')


def replace_card(checkpoint: Path) -> None:
    (checkpoint / "checkpoint.json").write_text('{"format": "something-else"}')


@pytest.mark.parametrize("damage", [truncate, remove_weights, lose_tensors, garble, replace_card])
def test_damaged_checkpoints_are_named_and_left_alone(
    tmp_path: Path, rooms: Path, damage: Any
) -> None:
    settings = config(rooms, tmp_path)
    started(settings).save()
    damage(tmp_path / "checkpoint")
    before = fingerprints(tmp_path)
    with pytest.raises(DamagedFileError, match="checkpoint"):
        train(settings)
    assert fingerprints(tmp_path) == before


def test_a_resumed_run_must_be_the_same_run(tmp_path: Path, rooms: Path, continuous: Path) -> None:
    """Settings that would change it are refused by name; where it is, how long it is and how often
    it saves may change."""
    settings = config(rooms, tmp_path)
    started(settings).save()
    before = fingerprints(tmp_path)
    with pytest.raises(
        InvalidInputError, match="other values of learning_rate: use them again or another --out"
    ):
        train(dataclasses.replace(settings, learning_rate=1e-3))
    with pytest.raises(InvalidInputError, match="other values of batch_size, loss"):
        train(
            dataclasses.replace(
                settings,
                batch_size=3,
                loss=dataclasses.replace(settings.loss, context_sigma=0.3),
            )
        )
    with pytest.raises(DamagedFileError, match="another kind of recording"):
        train(dataclasses.replace(settings, data=continuous))
    assert fingerprints(tmp_path) == before
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    shutil.copytree(tmp_path, moved)
    assert Trainer(dataclasses.replace(settings, out=moved, steps=7, save_every=2)).resume()


def test_starts_from_a_worlds_weights(
    tmp_path: Path, rooms: Path, blind: Path, continuous: Path
) -> None:
    train(config(rooms, tmp_path / "first"))
    first = World.from_pretrained(tmp_path / "first" / "world", device="cpu")
    settings = config(
        rooms, tmp_path / "second", init_from=str(tmp_path / "first" / "world"), preset="tiny"
    )
    trainer = started(settings)
    # Its sizes, its weights and its units, whatever the preset says.
    assert_equal(
        {k: v.cpu() for k, v in trainer.network.state_dict().items()},
        dict(first.network.state_dict()),
    )
    assert trainer.ego is not None and first.ego_motion is not None
    assert_equal(
        {k: v.cpu() for k, v in trainer.ego.state_dict().items()},
        dict(first.ego_motion.state_dict()),
    )
    trainer.train_step()
    assert not torch.equal(trainer.network.position.detach().cpu(), first.network.position)
    # Its card tells of all maps that went into the weights, those of the first run too.
    assert set(trainer.world().card["train_maps"]) == set(first.card["train_maps"]) | trainer.maps
    assert (
        trainer.world().card["frames"] == first.card["frames"]
        and len(trainer.world().card["recordings"]) == 1
    )
    other = {"policy": "random", "seed": 9, "frames": 100}
    trainer.earlier = {"train_maps": ["elsewhere"], "frames": 130, "recordings": [other]}
    card = trainer.world().card
    assert {"elsewhere"} < set(card["train_maps"])
    assert card["recordings"][0] == other and card["frames"] == trainer.frames + 130
    mismatch = r"--init-from .*action_dim.* are \(7, 0, 4\), the recording's \(0, 2, 4\)"
    with pytest.raises(InvalidInputError, match=mismatch):
        Trainer(dataclasses.replace(settings, data=continuous))
    with pytest.raises(InvalidInputError, match=r"the recording's \(7, 0, 3\)"):
        Trainer(dataclasses.replace(settings, data=blind, memory=False))
    with pytest.raises(NotFoundError, match="nowhere"):
        Trainer(dataclasses.replace(settings, init_from="./nowhere"))
    # A world of larger frames gives all but its tokens' positions.
    larger = World(first.network.resize(64, 48), first.config, first.ego_motion, first.outcome, {})
    trainer = started(
        dataclasses.replace(settings, init_from=str(larger.save_pretrained(tmp_path / "larger")))
    )
    assert trainer.network.config.height == trainer.network.config.width == 32
    assert torch.equal(trainer.network.stem.weight.detach().cpu(), first.network.stem.weight)
    trainer.train_step()


def test_learns_from_its_own_walks_and_from_edits(tmp_path: Path, rooms: Path) -> None:
    """Both at once, with the energy score: what is dreamed is kept beside what was recorded, and a
    step's losses are numbers."""
    train(config(rooms, tmp_path / "first"))
    settings = config(
        rooms,
        tmp_path / "second",
        init_from=str(tmp_path / "first" / "world"),
        edits=1.0,
        perturb=PerturbConfig(own=1.0, own_frames=(2.0, 16.0)),
        loss=LossConfig(energy=0.5),
    )
    trainer = started(settings)
    drawn = trainer.buffer.sample(4, torch.Generator().manual_seed(0))
    assert drawn.dreamed is not None and bool(drawn.dreamed.any())
    losses = trainer.train_step()
    assert all(
        math.isfinite(float(losses[k].detach())) for k in ("loss", "energy_score", "depth_loss")
    )
    assert not torch.equal(losses["windows"].rgb, losses["windows"].own_rgb)  # type: ignore[attr-defined]


@pytest.mark.parametrize("compiled", [False, True])
def test_checkpointing_changes_no_gradient(tmp_path: Path, rooms: Path, compiled: bool) -> None:
    """Blocks computed twice: the same gradients, bit by bit in plain torch. Compiled: what torch's
    compiler makes of it, without the code that inductor would make of that."""
    gradients = []
    for checkpointing in (False, True):
        trainer = started(config(rooms, tmp_path / "out", checkpointing=checkpointing))
        alive(trainer.network)
        if compiled:
            trainer.network.compile(dynamic=False, backend="aot_eager")
        assert trainer.network.gradient_checkpointing == checkpointing
        windows = trainer.buffer.sample(2, torch.Generator().manual_seed(0))
        losses = trainer.loss_module(
            windows, None, trainer.buffer.intrinsics, torch.Generator().manual_seed(1)
        )
        losses["loss"].backward()
        gradients.append({n: p.grad for n, p in trainer.network.named_parameters()})
    one, other = gradients
    assert all(value is not None and bool(value.any()) for value in one.values())
    for name in one:
        torch.testing.assert_close(
            one[name], other[name], rtol=1e-4 if compiled else 0.0, atol=1e-5 if compiled else 0.0
        )


def test_where_inductor_fails_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so once, and the module gives what it gives uncompiled."""

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", lambda function, **options: broken)
    monkeypatch.setattr(engine, "_told", set())
    layer, x = torch.nn.Linear(2, 3), torch.randn(4, 2)
    expected = layer(x)
    compile_in_place(layer, torch.device("cpu"))
    with pytest.warns(
        UserWarning, match="inductor failed .*No working C\\+\\+ compiler.*uncompiled, slower"
    ) as told:
        found = [layer(x), layer(x)]
    assert len(told) == 1 and all(torch.equal(y, expected) and y.requires_grad for y in found)


def test_checkpointing_may_change_when_a_run_goes_on(tmp_path: Path, rooms: Path) -> None:
    settings = config(rooms, tmp_path)
    started(settings).save()
    assert Trainer(dataclasses.replace(settings, checkpointing=True)).resume()


@pytest.mark.parametrize(("edits", "memory"), [(1.5, True), (-0.1, True), (0.2, False)])
def test_edits_that_are_none(tmp_path: Path, edits: float, memory: bool) -> None:
    with pytest.raises(
        InvalidInputError, match="edits = .*(at least 0|at most 1|0 without the memory)"
    ):
        config(tmp_path, tmp_path / "out", edits=edits, memory=memory)


def test_a_world_without_memory_cannot_start_one_with(tmp_path: Path, rooms: Path) -> None:
    """Its network has no eyes for the memory's views. The other way round works: the views are then
    empty."""
    for memory in (False, True):
        started(config(rooms, tmp_path / str(memory), memory=memory)).save()
    with pytest.raises(InvalidInputError, match="sees no scene memory, pass --no-memory"):
        Trainer(config(rooms, tmp_path / "out", init_from=str(tmp_path / "False" / "world")))
    trainer = started(
        config(rooms, tmp_path / "out", init_from=str(tmp_path / "True" / "world"), memory=False)
    )
    assert math.isfinite(float(trainer.train_step()["loss"].detach()))


@pytest.mark.parametrize("kind", ["rooms", "blind"])
def test_a_checkpoint_of_before_a_setting_resumes(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    """What it does not name was not there: no frames before were looked at, and nothing else agrees
    less for it."""
    memory = kind == "rooms"
    settings = config(
        request.getfixturevalue(kind), tmp_path, steps=4, memory=memory, last_frames=0
    )
    before = started(settings)
    before.train_step()
    before.save()
    file = tmp_path / "checkpoint" / "checkpoint.json"
    meta = json.loads(file.read_text())
    del meta["config"]["last_frames"], meta["config"]["loss"]["last_frame_sigma"]
    write_sealed(file, meta)
    # With a memory the setting has no meaning.
    assert Trainer(dataclasses.replace(settings, last_frames=4 if memory else 0)).resume()
    if not memory:
        with pytest.raises(InvalidInputError, match="made with other values of last_frames"):
            Trainer(dataclasses.replace(settings, last_frames=4)).resume()
    changed = dataclasses.replace(settings.loss, pure_noise=0.25)
    with pytest.raises(InvalidInputError, match="made with other values of loss"):
        Trainer(dataclasses.replace(settings, loss=changed)).resume()


def test_without_geometry(tmp_path: Path, blind: Path) -> None:
    """Asked for a memory, training says what to do; without, the world has three channels and no
    poses."""
    with pytest.raises(
        MissingGeometryError, match="no poses and depth, which the memory needs: pass --no-memory"
    ):
        train(config(blind, tmp_path / "memory"))
    assert not (tmp_path / "memory").exists()
    world = train(config(blind, tmp_path / "out", memory=False))
    n = world.network.config
    assert (n.channels, n.view_channels, world.has_geometry, world.config.memory) == (
        3,
        16,
        False,
        None,
    )
    assert world.config.intrinsics is None and world.ego_motion is None


def test_continuous_actions_keep_their_bounds(tmp_path: Path, continuous: Path) -> None:
    train(config(continuous, tmp_path))
    world = World.from_pretrained(tmp_path / "world", device="cpu")
    assert (world.network.config.actions, world.network.config.action_dim) == (0, 2)
    assert (world.config.action_low, world.config.action_high) == ((-2.0, 0.0), (1.0, 3.0))
    assert world.action_space.low.tolist() == [-2.0, 0.0]  # type: ignore[attr-defined]
    assert world.action_space.high.tolist() == [1.0, 3.0]  # type: ignore[attr-defined]
    assert world.action_space.contains(np.array([-1.5, 2.5], np.float32))


def test_rewards_and_terminations_are_noticed(tmp_path: Path, rooms: Path) -> None:
    """A goal that was reached once gives the world both heads."""
    dataset = EpisodeDataset(rooms)
    with EpisodeWriter(tmp_path / "goal", dataset.info) as writer:
        for number, episode in enumerate(dataset):
            rew, term = episode.rew.copy(), episode.term.copy()
            if number == 2:
                rew[-2], term[-2] = 1.0, True
            writer.add(
                dataclasses.replace(episode, rew=rew, term=term, trunc=episode.trunc & ~term)
            )
    trainer = started(config(tmp_path / "goal", tmp_path / "out"))
    assert trainer.has_rewards and trainer.tally.endings == 1
    settings = trainer.world().config
    assert settings.has_rewards and settings.has_terminations


def test_what_a_recording_lacks_is_said_again(tmp_path: Path, rooms: Path) -> None:
    """By its stored report; control characters are left out."""
    data = tmp_path / "data"
    shutil.copytree(rooms, data)
    index = json.loads((data / "dataset.json").read_text())
    index["report"] = {"frames": 128, "warnings": ["Actions come 1 frame late\x1b[2J"]}
    write_sealed(data / "dataset.json", index)
    with pytest.warns(UserWarning, match=r"data: Actions come 1 frame late\[2J") as caught:
        started(config(data, tmp_path / "out")).take_in()
    assert sum("Actions come" in str(one.message) for one in caught) == 1


def test_test_episodes_are_refused(tmp_path: Path) -> None:
    data = recording(tmp_path / "data", split="test")
    with pytest.raises(
        InvalidInputError,
        match="split test: training takes only 'train', record it with --reset-options",
    ):
        train(config(data, tmp_path / "out"))
    assert len(started(config(data, tmp_path / "out", train_split="test")).buffer) > 0


def test_takes_in_what_is_recorded_meanwhile(tmp_path: Path, rooms: Path) -> None:
    """A second shard appears while training goes on with the first."""
    data = tmp_path / "data"
    shutil.copytree(rooms, data)
    whole = json.loads((data / "dataset.json").read_text())
    write_sealed(data / "dataset.json", {**whole, "shards": whole["shards"][:1]})
    trainer = started(config(data, tmp_path / "out"))
    trainer.train_step()
    # Two episodes of 32 frames have 21 windows of 12 each.
    assert (len(trainer.buffer), trainer.frames) == (42, 64)
    trainer.take_in()
    assert len(trainer.buffer) == 42
    write_sealed(data / "dataset.json", whole)
    trainer.take_in()
    assert (len(trainer.buffer), trainer.frames) == (84, 128)
    assert trainer.taken == {str(data / f"shard-0000{i}.safetensors") for i in (0, 1)}
    # The new episodes have been through the memory too.
    assert bool(trainer.buffer._data["view"][65:96].flatten(1).any(1).all())
    assert math.isfinite(float(trainer.train_step()["loss"].detach()))
    assert trainer.world().card["frames"] == 128


def test_takes_in_recordings_that_appear_meanwhile(
    tmp_path: Path, rooms: Path, blind: Path
) -> None:
    """A folder of recordings is looked through again while training goes on; one of another kind is
    refused."""
    rounds = tmp_path / "rounds"
    shutil.copytree(rooms, rounds / "0")
    trainer = started(config(rounds, tmp_path / "out"))
    assert (len(trainer.buffer), trainer.frames) == (84, 128)
    shutil.copytree(rooms, rounds / "agent-1")
    trainer.take_in()
    trainer.take_in()
    assert (len(trainer.buffer), trainer.frames) == (168, 256)
    shutil.copytree(blind, rounds / "other")
    with pytest.raises(InvalidInputError, match="cannot be used together"):
        trainer.take_in()


def test_longer_attention_and_more_sampling_steps(tmp_path: Path, rooms: Path) -> None:
    world = train(config(rooms, tmp_path, attention=6, window=18, num_inference_steps=3, steps=1))
    loaded = World.from_pretrained(tmp_path / "world", device="cpu")
    assert (
        world.network.config.window,
        loaded.network.config.window,
        loaded.config.dynamics.num_inference_steps,
    ) == (6, 6, 3)
    with pytest.raises(
        InvalidInputError, match="window 17 is too short: at least 18, three attention windows"
    ):
        train(config(rooms, tmp_path / "other", attention=6, window=17))
    with pytest.raises(InvalidInputError, match="attention = 1: at least 2 frames"):
        config(rooms, tmp_path, attention=1)


def test_bad_settings_are_named(tmp_path: Path, rooms: Path, continuous: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(NotFoundError, match="worldsim record"):
        train(config(tmp_path / "nothing", out))
    with pytest.raises(
        InvalidInputError,
        match="unknown preset 'huge': choose one of debug, tiny, small, task, mini, large",
    ):
        train(config(rooms, out, preset="huge"))
    with pytest.raises(
        InvalidInputError, match="window 11 is too short: at least 12, three attention windows"
    ):
        train(config(rooms, out, window=11))
    with pytest.raises(
        InvalidInputError, match="no window of 40 frames for each of 1 processes: record more"
    ):
        train(config(rooms, out, window=40))
    with pytest.raises(InvalidInputError, match="raise --buffer-frames"):
        train(config(rooms, out, buffer_frames=63))
    for actions in ((0, 1), (0, 1, 2, 3, 4, 5, 5)):
        with pytest.raises(InvalidInputError, match="each of the recording's 7 discrete actions"):
            train(config(rooms, out, mirror_actions=actions))
    with pytest.raises(InvalidInputError, match="mirror-actions"):
        train(config(continuous, out, mirror_actions=(0, 1)))
    for name in (
        "steps",
        "num_inference_steps",
        "batch_size",
        "warmup",
        "save_every",
        "sample_every",
        "refresh_every",
    ):
        with pytest.raises(InvalidInputError, match=f"{name} = 0: it must be at least 1"):
            config(rooms, out, **{name: 0})
    with pytest.raises(InvalidInputError, match="minutes"):
        config(rooms, out, minutes=0.0)
    with pytest.raises(InvalidInputError, match="choose bf16 or no"):
        config(rooms, out, mixed_precision="fp16")
    assert not (out / "checkpoint").exists() and not (out / "world").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rooms", "blind"])
def test_two_processes(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    """One shard each, gradients averaged; the recording without geometry has a single shard, which
    is divided anew."""
    data = request.getfixturevalue(kind)
    if kind == "blind":
        dataset = EpisodeDataset(data)
        data = tmp_path / "two"
        with EpisodeWriter(data, dataset.info, frames_per_shard=64) as writer:
            for episode in dataset:
                writer.add(episode)
    settings = config(data, tmp_path / "out", steps=4, save_every=2, memory=kind == "rooms")
    if kind == "rooms":
        # As the documentation starts it.
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        line = [sys.executable, *launcher, "-m", "worldsim", *command(settings)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        subprocess.run(line, check=True, env=environment, timeout=600)
    else:
        run("worldsim", *command(settings), ranks=2)
    (entry,) = read_json(settings.out / "history.json")
    assert entry["step"] == 4 and all(math.isfinite(v) for v in entry.values())
    card = World.from_pretrained(settings.out / "world", device="cpu").card
    assert (card["frames"], card["training"]["windows_a_step"]) == (128, 4)
    assert card["training"]["hardware"] == "2 CPU process(es)"


def test_several_recordings_are_one(tmp_path: Path, rooms: Path, blind: Path) -> None:
    """Rounds of other policies are trained on together; the card names each, and recordings of
    other things are refused."""
    data = tmp_path / "again"
    shutil.copytree(rooms, data)
    index = json.loads((data / "dataset.json").read_text())
    write_sealed(
        data / "dataset.json", index | {"policy": "worldsim.agents.random:RandomPolicy", "seed": 7}
    )
    trainer = started(dataclasses.replace(config(rooms, tmp_path / "out"), data=(rooms, data)))
    assert (len(trainer.buffer), trainer.frames) == (168, 256)
    assert math.isfinite(float(trainer.train_step()["loss"].detach()))
    told = trainer.world().card["recordings"]
    assert [(t["frames"], t["seed"]) for t in told] == [(128, index["seed"]), (128, 7)]
    assert told[1]["policy"] == "worldsim.agents.random:RandomPolicy"
    with pytest.raises(
        InvalidInputError,
        match="cannot be used together: geometry is True in one, False in the other",
    ):
        Trainer(dataclasses.replace(config(rooms, tmp_path / "out"), data=(rooms, blind)))
    with pytest.raises(InvalidInputError, match="data is empty"):
        dataclasses.replace(config(rooms, tmp_path / "out"), data=())


def test_a_world_starts_where_episodes_did(tmp_path: Path, blind: Path) -> None:
    """Trained worlds can be stepped at once: their scenes are first frames of the recording, and
    are not written twice."""
    world = train(config(blind, tmp_path / "out", memory=False, scenes=3))
    folder = tmp_path / "out" / "world" / "scenes"
    firsts = {e.rgb[0].tobytes() for e in EpisodeDataset(blind)}
    assert sorted(p.name for p in folder.iterdir()) == ["start-1", "start-2", "start-3"]
    for path in folder.iterdir():
        scene = load_scene(path)
        world.check_start(scene)
        assert scene.rgb.shape[0] == 1 and scene.rgb[0].permute(1, 2, 0).numpy().tobytes() in firsts
    assert world.config.termination == "sample" and not world.config.has_terminations
    shutil.rmtree(folder / "start-2")
    train(config(blind, tmp_path / "out", memory=False, scenes=3, steps=4))
    assert sorted(p.name for p in folder.iterdir()) == ["start-1", "start-3"]


def test_rewards_of_two_kinds_are_measured() -> None:
    """Going on gives 4, 4 and 1, ending gives -96 and -104; what was cut off is neither, and only
    the black frame is made up."""
    rgb = np.arange(2 * 7 * 12, dtype=np.uint8).reshape(14, 2, 2, 3)
    rgb[3] = 0
    term, trunc, rew = np.zeros(14, bool), np.zeros(14, bool), np.zeros(14, np.float32)
    # Episodes of 4, 3, 3 and 4 frames: died, died, was cut off, was cut off and died at once.
    term[[2, 5, 12]], trunc[[8, 12]] = True, True
    rew[[0, 1, 4, 7, 8, 10, 11]] = [4, 4, 1, 4, 4, 4, 4]
    rew[[2, 5, 12]] = [-96, -104, 50]
    start = np.array([0, 4, 7, 10, 14])
    tally = Tally()
    tally.add({"rgb": rgb, "term": term, "trunc": trunc, "rew": rew, "episode_start": start})
    assert tally.endings == 2 and tally.synthetic_terminal and tally.count.tolist() == [7, 2]
    units = tally.units().tolist()
    assert units[:2] == pytest.approx([25 / 7, -100])
    assert units[2:4] == pytest.approx([math.sqrt(97 / 7 - (25 / 7) ** 2), 4.0])
    assert 1 / (1 + math.exp(-units[4])) == pytest.approx(2.5 / 10)
    assert Tally().units().isfinite().all()


def test_start_scenes_are_completed_after_a_kill_of_the_first_save(
    tmp_path: Path, rooms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of the scenes appears with all of them, so a later save knows whether they are
    there."""
    settings = config(rooms, tmp_path, scenes=3)
    trainer = started(settings)
    trainer.train_step()
    saved: list[str] = []

    def save(scene: SceneStart, folder: Path) -> Path:
        if len(saved) == 1:
            raise KeyboardInterrupt
        saved.append(scene.name)
        return save_scene(scene, folder)

    monkeypatch.setattr(starts, "save_scene", save)
    with pytest.raises(KeyboardInterrupt):
        trainer.save()
    assert saved and not (tmp_path / "world" / "scenes").exists()
    # What a kill leaves, where an exception tidies up.
    (tmp_path / "world" / ".scenes.99999999-1.new" / "start-1").mkdir(parents=True)
    monkeypatch.undo()
    train(settings)
    assert scene_names(tmp_path / "world" / "scenes") == ["start-1", "start-2", "start-3"]
    assert not list(tmp_path.rglob(".*"))


def test_a_kill_between_two_files_leaves_no_gap_in_the_history(
    tmp_path: Path, rooms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the checkpoint has come to, the history has come to as well."""
    settings = config(rooms, tmp_path)
    trainer = started(settings)
    trainer.train_step()
    trainer.history.append({"step": 1, "loss": 0.5})

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(World, "save_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.save()
    resumed = Trainer(settings)
    assert resumed.resume() and resumed.step == 1 and resumed.history == trainer.history
    # A history that is ahead of its checkpoint is cut back.
    (tmp_path / "history.json").write_text(
        json.dumps([{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.4}])
    )
    ahead = Trainer(settings)
    assert ahead.resume() and ahead.history == trainer.history


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_training_after_a_step_with_a_checkpoint(
    tmp_path: Path, rooms: Path, number: int
) -> None:
    settings = config(rooms, tmp_path / "out", steps=100_000, save_every=100_000)
    with launched("worldsim", *command(settings)) as process:
        while not (settings.out / "samples").is_dir() and not list(
            settings.out.glob("tensorboard/*")
        ):
            assert process.is_running()
            time.sleep(0.05)
        time.sleep(1.0)
        process.send_signal(number)
        assert process.wait() == {143 if number == signal.SIGTERM else 130}
        printed = process.printed
    step = read_json(settings.out / "checkpoint" / "checkpoint.json")["step"]
    assert (
        f"interrupted after {step} steps; saved in {settings.out}" in printed
        and "Traceback" not in printed
    )
    assert (
        World.from_pretrained(settings.out / "world", "cpu").card["training"]["steps"] == step > 0
    )
    assert not list(settings.out.rglob(".*"))


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, rooms: Path) -> None:
    """Files that cannot grow stand for a full disk."""
    settings = config(rooms, tmp_path)
    trainer = started(settings)
    trainer.train_step()
    trainer.save()
    before = fingerprints(tmp_path)
    trainer.train_step()
    size = (tmp_path / "checkpoint" / "state.safetensors").stat().st_size
    with largest_file(size // 2), pytest.raises(StorageError, match="cannot be written .*intact"):
        trainer.save()
    assert {k: v for k, v in fingerprints(tmp_path).items() if k != "history.json"} == {
        k: v for k, v in before.items() if k != "history.json"
    }
    with largest_file(0), pytest.raises(StorageError, match="cannot be written"):
        train(dataclasses.replace(settings, out=tmp_path / "other"))
    assert Trainer(settings).resume()
