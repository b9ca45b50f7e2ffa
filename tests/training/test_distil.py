"""Distillation: losses by hand, samples as in use, a student on disk, resumed bit for bit, and
misfits refused by name."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.launching import run
from tests.helpers.training import assert_equal, state_of
from tests.helpers.training import distil_config as config
from tests.helpers.worlds import SIZE, make_tiny_world
from worldsim.data.dataset import EpisodeDataset
from worldsim.diffusion.denoiser import add_noise, channels_to_frame
from worldsim.diffusion.dynamics import DiffusionDynamics, DynamicsConfig
from worldsim.errors import InvalidInputError, NotFoundError
from worldsim.runtime.json_config import read_json, write_json
from worldsim.training.buffer import Windows
from worldsim.training.distil import DistilConfig, DistilTrainer, distil
from worldsim.training.distil_loss import (
    HUBER,
    DistilLoss,
    DistilLossConfig,
    Stage,
    distance,
)
from worldsim.world import World
from worldsim.world.files import write_card

B, T = 2, 12
INTRINSICS = torch.tensor([16.0, 16.0, 16.0, 16.0])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with random weights, on disk, that says on which maps it was trained and samples with
    a shift."""
    folder = tmp_path_factory.mktemp("teachers") / "teacher"
    world = make_tiny_world(dynamics=DynamicsConfig(num_inference_steps=4, shift=2.0))
    world.card["train_maps"] = ["room-of-the-teacher"]
    return world.save_pretrained(folder)


@pytest.fixture(scope="module")
def blind_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_world(geometry=False).save_pretrained(
        tmp_path_factory.mktemp("teachers") / "blind"
    )


def started(settings: DistilConfig) -> DistilTrainer:
    trainer = DistilTrainer(settings)
    trainer.wait_for_data()
    return trainer


def made(steps: int = 1, **losses: Any) -> DistilLoss:
    """A student that begins as its teacher."""
    world = make_tiny_world()
    student = copy.deepcopy(world.network).requires_grad_(True)
    return DistilLoss(
        student,
        world.network,
        world.outcome.requires_grad_(True),
        DistilLossConfig(**losses),
        steps,
    )


def windows() -> Windows:
    generator = torch.Generator().manual_seed(0)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, (B, T, *shape), generator=generator)

    return Windows(
        rgb=integers(256, 3, SIZE, SIZE).to(torch.uint8),
        inverse_depth=integers(65536, SIZE, SIZE).to(torch.int32),
        act=integers(7),
        rew=torch.zeros(B, T),
        term=torch.zeros(B, T, dtype=torch.bool),
        motion=0.1 * torch.randn(B, T, 6, generator=generator),
        view=torch.randn(B, T, 8, SIZE, SIZE, generator=generator),
    )


def losses_of(objective: DistilLoss, seed: int = 1, progress: float = 0.0) -> dict[str, Tensor]:
    return objective(windows(), None, INTRINSICS, torch.Generator().manual_seed(seed), progress)


def test_distance_by_hand() -> None:
    """Three colours off by 0.3 each; then a chessboard of +0.3 and -0.3, whose means over squares
    of two pixels are right."""
    zero = torch.zeros(1, 1, 4, 8, 8)
    off = zero.clone()
    off[:, :, :3] = 0.3
    assert distance(off, zero).item() == pytest.approx(math.sqrt(3 * 0.09 + HUBER**2) - HUBER)
    off[..., ::2, ::2] *= -1
    off[..., 1::2, 1::2] *= -1
    assert distance(off, zero).item() == pytest.approx(math.sqrt(3 * 0.09 + HUBER**2) - HUBER)
    assert distance(off, zero, pixels=2).item() == pytest.approx(0.0, abs=1e-6)
    # Depth is not a colour.
    zero[:, :, 3] = 1.0
    assert distance(torch.zeros_like(zero), zero).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_samples_are_those_of_use(steps: int) -> None:
    """Twelve frames at once equal twelve steps of the dynamics with its ring of cached frames, at
    any number of steps."""
    objective, batch = made(teacher_steps=steps), windows()
    network = objective.teacher
    dynamics = DiffusionDynamics(
        network, DynamicsConfig(num_inference_steps=steps, context_sigma=0.05)
    )
    noise = torch.randn(2, B, T, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    level = torch.full((B, T), 0.05)
    stage = Stage(
        add_noise(batch.x, noise[0], level),
        level,
        objective._condition(batch, INTRINSICS, 1),
        torch.zeros(B, dtype=torch.int64),
    )
    sampled, beside = objective._sample(network, objective.teacher_sigmas, stage, noise[1])
    assert beside is None
    context = dynamics.empty(B, "cpu")
    assert batch.view is not None and batch.inverse_depth is not None
    for i in range(T):
        condition = dynamics.condition(
            batch.act[:, i], batch.motion[:, i], batch.view[:, i], INTRINSICS.expand(B, 4)
        )
        with torch.no_grad():
            x, _, context = dynamics.sample(context, condition, noise[1, :, i])
        torch.testing.assert_close(sampled[:, i], x, atol=1e-4, rtol=1e-4)
        frame = channels_to_frame(batch.x[:, i], None)
        context = dynamics.hold(context, frame, condition, noise[0, :, i])


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    """One step against one step from the same noise: nothing is left to tell, after its own context
    too."""
    for own in (0.0, 1.0):
        losses = losses_of(made(teacher_steps=1, real=0.0, own_context=own))
        assert float(losses["regression_error"]) == pytest.approx(0.0, abs=1e-6)
    assert float(losses_of(made(teacher_steps=3, real=0.0))["regression_error"]) > 1e-3


def test_consistency_goes_down_one_rung() -> None:
    """To level 0, the answer is the teacher's frame; elsewhere the averaged student's, where the
    teacher's Euler step leads to."""
    objective, batch = made(regression=0.0, real=0.0, consistency=1.0), windows()
    zero = torch.zeros(B, T)
    stage = Stage(
        batch.x, zero, objective._condition(batch, INTRINSICS, 1), torch.zeros(B, dtype=torch.int64)
    )
    x = torch.randn(batch.x.shape, generator=torch.Generator().manual_seed(4))

    def denoised(x: Tensor, level: Tensor) -> Tensor:
        with torch.no_grad():
            return objective._denoise(objective.teacher, stage, [(x, level)])[0][0]

    told = denoised(x, zero + 0.8)
    torch.testing.assert_close(objective._one_rung_down(stage, (x, zero + 0.8), None, zero), told)
    # Half of the noise is left at half of the level.
    lower = 0.5 * told + 0.5 * x
    answer = objective._one_rung_down(stage, (x, zero + 0.8), told, zero + 0.4)
    torch.testing.assert_close(answer, denoised(lower, zero + 0.4), atol=1e-5, rtol=1e-5)


def test_what_a_dream_remembers_is_not_charged() -> None:
    """The memory shows black where white was, and holds dreamed frames in the first window: true
    frames charge for the second alone, and the teacher's samples for both."""
    white = torch.full((B, T, 3, SIZE, SIZE), 255, dtype=torch.uint8)
    view = torch.zeros(B, T, 8, SIZE, SIZE)
    view[:, :, :3], view[:, :, 4] = -1.0, 1.0
    batch = dataclasses.replace(
        windows(), rgb=white, view=view, dreamed=torch.tensor([True, False])[:, None].expand(B, T)
    )

    def found(seen: Windows, **losses: Any) -> dict[str, float]:
        objective = made(
            teacher_steps=2, real=1.0, energy=0.0, own_context=0.0, depth_weight=0.0, **losses
        )
        values = objective(seen, None, INTRINSICS, torch.Generator().manual_seed(1))
        return {k: float(v.detach()) for k, v in values.items() if k != "prediction"}

    both, first, second, charged = (
        found(dataclasses.replace(batch, dreamed=torch.tensor(rows)[:, None].expand(B, T)))
        for rows in ([True, True], [True, False], [False, True], [False, False])
    )
    # Nothing is charged for: the logarithm of what is added to every error.
    assert both["rgb_mse"] == 0.0 and both["rgb_loss"] == pytest.approx(math.log(1e-3))
    assert min(first["rgb_mse"], second["rgb_mse"]) > 0.0
    assert first["rgb_mse"] + second["rgb_mse"] == pytest.approx(charged["rgb_mse"], rel=1e-5)
    assert found(batch, forgive_dreamed=False) == pytest.approx(charged)
    assert {round(f["regression_error"], 6) for f in (both, first, second, charged)} == {
        round(charged["regression_error"], 6)
    }


@pytest.mark.parametrize(
    ("losses", "steps", "error"),
    [
        ({"real": 0.0}, 1, "regression_error"),
        ({"real": 0.0}, 2, "regression_error"),
        ({"regression": 0.0, "real": 0.0, "consistency": 1.0}, 1, "consistency_error"),
        ({"regression": 0.0, "real": 1.0, "energy": 0.0}, 1, "rgb_mse"),
        ({"real": 1.0, "motion_pixels": 4}, 1, "regression_error"),
        ({"consistency": 1.0}, 2, "loss"),
    ],
)
def test_each_loss_is_learnt(losses: dict[str, Any], steps: int, error: str) -> None:
    """Alone or together, on one batch with the same noise."""
    objective = made(steps, **losses)
    objective.averaged.load_state_dict(objective.network.state_dict())
    optimizer = torch.optim.Adam(objective.parameters(), lr=2e-3)
    found = []
    for _ in range(15):
        result = losses_of(objective)
        optimizer.zero_grad()
        result["loss"].backward()
        optimizer.step()
        found.append(float(result[error].detach()))
    assert all(math.isfinite(value) for value in found)
    assert found[-1] < found[0] - 0.1 * abs(found[0])


def test_losses_of_weight_zero_are_left_out() -> None:
    """Nothing else but the heads' is there, and nobody but the student has gradients."""
    common = {"reward_loss", "termination_loss", "loss", "prediction"}
    taught = {"regression_loss", "regression_error"}
    true = {"rgb_loss", "rgb_mse", "depth_loss", "depth_error"}
    objective = made(real=0.0)
    result = losses_of(objective)
    assert result.keys() == common | taught
    result["loss"].backward()
    assert all(p.grad is not None for p in objective.parameters())
    assert all(
        p.grad is None
        for other in (objective.teacher, objective.averaged)
        for p in other.parameters()
    )
    assert losses_of(made(regression=0.0)).keys() == common | true | {"energy_score"}
    assert losses_of(made(energy=0.0)).keys() == common | taught | true
    assert losses_of(made(consistency=1.0)).keys() >= {"consistency_loss", "consistency_error"}
    names = [name for name, _ in objective.named_parameters()]
    assert all(name.startswith(("network.", "outcome.")) for name in names)
    assert {name.partition(".")[0] for name in objective.state_dict()} == {"network", "outcome"}


def test_own_context_begins_when_it_shall() -> None:
    """Then every context frame is the student's own: the same noise gives other losses."""
    late = made(own_context=1.0, own_context_from=0.5)
    never, before, after = (
        float(losses_of(o, progress=p)["loss"].detach())
        for o, p in ((made(own_context=0.0), 0.9), (late, 0.4), (late, 0.5))
    )
    assert never == before != after


def test_distils_a_world(tmp_path: Path, rooms: Path, teacher: Path) -> None:
    """On disk: a world of so many steps that says whose student it is; ego-motion, memory and shift
    are the teacher's."""
    distil(
        config(
            teacher,
            rooms,
            tmp_path,
            num_inference_steps=2,
            sample_every=2,
            perturb=config(teacher, rooms, tmp_path).perturb,
        )
    )
    assert {p.name for p in tmp_path.iterdir()} == {
        "checkpoint",
        "history.json",
        "samples",
        "tensorboard",
        "world",
    }
    (entry,) = read_json(tmp_path / "history.json")
    assert entry["step"] == 3 and all(math.isfinite(v) for v in entry.values())
    student, source = (
        World.from_pretrained(f, device="cpu") for f in (tmp_path / "world", teacher)
    )
    assert student.config.dynamics == DynamicsConfig(num_inference_steps=2, shift=2.0)
    assert student.config.memory == source.config.memory
    assert student.ego_motion is not None and source.ego_motion is not None
    assert_equal(dict(student.ego_motion.state_dict()), dict(source.ego_motion.state_dict()))
    assert not torch.equal(student.network.position, source.network.position)
    card = student.card["distilled"]
    assert (card["teacher"], card["student"], card["steps"]) == (str(teacher), "teacher", 2)
    weights = (teacher / "dynamics" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert (
        card["teacher_sha256"]["dynamics/diffusion_pytorch_model.safetensors"]
        == hashlib.sha256(weights).hexdigest()
    )
    assert card["method"] == {
        "regression": 1.0,
        "real": 0.5,
        "teacher_steps": 3,
        "own_context": 0.25,
        "own_walks": 0.5,
    }
    maps = {e.info["map"] for e in EpisodeDataset(rooms)}
    assert set(student.card["train_maps"]) == maps | {"room-of-the-teacher"}


def test_the_student_steps(tmp_path: Path, rooms: Path, teacher: Path, room_scene: Any) -> None:
    student = distil(config(teacher, rooms, tmp_path, training_steps=1))
    state = student.initial([room_scene], [0])
    state, transition = student.step(state, torch.tensor([1]))
    assert transition.frame.rgb.shape == (1, 3, SIZE, SIZE)


@pytest.mark.parametrize(
    ("kind", "losses", "changes"),
    [
        ("rooms", {}, {}),
        ("rooms", {"consistency": 0.5}, {"num_inference_steps": 2}),
        ("blind", {}, {"student": "none", "preset": "debug"}),
    ],
)
def test_a_resumed_run_is_the_same_run(
    tmp_path: Path,
    kind: str,
    losses: dict[str, Any],
    changes: dict[str, Any],
    request: pytest.FixtureRequest,
) -> None:
    """Four steps at once, or two, a checkpoint, and two more in another trainer: every tensor is
    equal."""
    world = request.getfixturevalue("teacher" if kind == "rooms" else "blind_teacher")
    settings = config(
        world, request.getfixturevalue(kind), tmp_path, losses, training_steps=4, **changes
    )
    # Walks of its own are dreamed when a recording is taken in, with the weights of that moment.
    settings = dataclasses.replace(settings, perturb=dataclasses.replace(settings.perturb, own=0.0))
    through = started(settings)
    assert not through.resume()
    for step in range(4):
        if step == 2:
            through.save()
        assert math.isfinite(float(through.train_step()["loss"].detach()))
    resumed = DistilTrainer(settings)
    assert resumed.resume() and resumed.step == 2
    resumed.wait_for_data()
    for _ in range(2):
        resumed.train_step()
    assert_equal(state_of(resumed), state_of(through))


def test_a_resumed_run_must_have_the_same_teacher(
    tmp_path: Path, rooms: Path, teacher: Path
) -> None:
    """It may have moved, and training may go on for longer; other weights and other settings are
    refused."""
    settings = config(teacher, rooms, tmp_path / "out")
    started(settings).save()
    moved = shutil.copytree(teacher, tmp_path / "moved")
    assert DistilTrainer(dataclasses.replace(settings, world=str(moved), training_steps=9)).resume()
    other = make_tiny_world(seed=5).save_pretrained(tmp_path / "other")
    with pytest.raises(InvalidInputError, match="other values of teacher_sha256"):
        DistilTrainer(dataclasses.replace(settings, world=str(other))).resume()
    with pytest.raises(InvalidInputError, match="other values of num_inference_steps, loss"):
        DistilTrainer(
            config(teacher, rooms, tmp_path / "out", {"real": 1.0}, num_inference_steps=2)
        ).resume()


def test_starts_from_random_weights_or_another_world(
    tmp_path: Path, rooms: Path, teacher: Path
) -> None:
    """Of another size, but with the teacher's frames, actions and window."""
    small = started(config(teacher, rooms, tmp_path / "a", student="none", preset="tiny"))
    n = small.network.config
    assert (n.dim, n.depth, n.window, n.height, n.actions, n.view_channels) == (
        256,
        4,
        4,
        SIZE,
        7,
        8,
    )
    assert math.isfinite(float(small.train_step()["loss"].detach()))
    started_from = make_tiny_world(seed=7).save_pretrained(tmp_path / "other")
    from_other = DistilTrainer(config(teacher, rooms, tmp_path / "b", student=str(started_from)))
    expected = World.from_pretrained(started_from, device="cpu").network.position
    assert torch.equal(from_other.network.position.detach().cpu(), expected)
    assert not torch.equal(from_other.pupil.teacher.position.cpu(), expected)


def test_misfits_are_refused_by_name(
    tmp_path: Path, rooms: Path, blind: Path, teacher: Path, blind_teacher: Path
) -> None:
    out = tmp_path / "out"
    mismatch = (
        "student .* does not fit teacher .*: it has channels 3 and not 4, view_channels 0 and not "
        "8; start from"
    )
    with pytest.raises(InvalidInputError, match=mismatch):
        DistilTrainer(config(teacher, rooms, out, student=str(blind_teacher)))
    other = shutil.copytree(teacher, tmp_path / "window")
    write_json(
        other / "dynamics" / "config.json",
        read_json(other / "dynamics" / "config.json") | {"window": 5},
    )
    write_card(other, World.from_pretrained(teacher, "cpu").config, {})
    with pytest.raises(InvalidInputError, match="it has window 5 and not 4"):
        DistilTrainer(config(teacher, rooms, out, student=str(other), window=15))
    with pytest.raises(
        InvalidInputError, match="does not fit the recording .*: it takes channels 4 and not 3"
    ):
        DistilTrainer(config(teacher, blind, out))
    with pytest.raises(
        InvalidInputError,
        match="the recording .*: it takes height 64 and not 32, width 64 and not 32",
    ):
        distil(config(Path("freedoom-tiny"), rooms, out))
    with pytest.raises(NotFoundError, match="nowhere"):
        distil(config(Path("./nowhere"), rooms, out))
    with pytest.raises(NotFoundError, match="worldsim record"):
        distil(config(teacher, tmp_path / "nothing", out))
    with pytest.raises(InvalidInputError, match="each of the recording's 7 discrete actions once"):
        DistilTrainer(config(teacher, rooms, out, mirror_actions=(0, 1)))
    assert not out.exists()


def test_bad_settings_are_named(tmp_path: Path) -> None:
    def refused(match: str, losses: dict[str, Any] | None = None, **changes: Any) -> None:
        with pytest.raises(InvalidInputError, match=match):
            config(tmp_path, tmp_path, tmp_path, losses, **changes)

    refused(
        "a student of 3 sampling steps has nothing to learn from a teacher that takes 3",
        num_inference_steps=3,
    )
    refused("num_inference_steps = 0: it must be at least 1", num_inference_steps=0)
    refused("training_steps = 0", training_steps=0)
    refused("batch_size = 0", batch_size=0)
    refused("unknown preset 'huge'", preset="huge")
    refused("real = -1: a weight", {"real": -1})
    refused("nothing would be learned", {"real": 0, "regression": 0})
    refused(r"own_context = 2: it must be in \[0, 1\]", {"own_context": 2})
    refused("consistency_sigmas = 1", {"consistency_sigmas": 1})
    refused("motion_pixels = 3: choose 1, 2, 4 or 8", {"motion_pixels": 3})
    refused("needs real over 0", {"motion_pixels": 2, "real": 0.0})


@pytest.mark.slow
def test_two_processes(tmp_path: Path, rooms: Path, teacher: Path) -> None:
    """One shard each, gradients averaged."""
    values = {
        "data": rooms, "out": tmp_path, "training-steps": 4, "batch-size": 2, "window": 12,
        "memory-capacity": 1024, "mixed-precision": "no", "loss.consistency": 0.5,
        "num-inference-steps": 2,
    }  # fmt: skip
    options = [str(x) for name, value in values.items() for x in (f"--{name}", value)]
    run("worldsim", "distil", str(teacher), *options, ranks=2)
    (entry,) = read_json(tmp_path / "history.json")
    assert entry["step"] == 4 and all(math.isfinite(v) for v in entry.values())
    card = World.from_pretrained(tmp_path / "world", device="cpu").card
    assert (card["frames"], card["training"]["windows_a_step"]) == (128, 4)
