"""The adversarial loss: by hand, its gradients, that it sharpens, resumed bit for bit."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.helpers.training import CPU, SIZE, B, T, assert_equal, network, state_of
from tests.helpers.training import distil_config as config
from tests.helpers.training import windows as random_windows
from tests.helpers.worlds import make_tiny_world
from worldsim.errors import InvalidInputError
from worldsim.runtime.json_config import read_json
from worldsim.training.adversarial import (
    AdversarialConfig,
    Adversary,
    Discriminator,
    as_clips,
    detail,
    follows_generated,
    relativistic_loss,
)
from worldsim.training.buffer import Windows
from worldsim.training.distil import DistilTrainer
from worldsim.training.distil_loss import DistilLoss, DistilLossConfig
from worldsim.world import World
from worldsim.world.heads import OutcomeHead

INTRINSICS = torch.tensor([8.0, 8.0, 8.0, 8.0])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_world().save_pretrained(tmp_path_factory.mktemp("teachers") / "teacher")


def made(adversarial: AdversarialConfig | None = None, **losses: Any) -> DistilLoss:
    """A student that begins as its teacher, with a discriminator."""
    judge = network(0).eval().requires_grad_(False)
    student = copy.deepcopy(judge).requires_grad_(True)
    torch.manual_seed(1)
    adversary = Adversary(judge, adversarial or AdversarialConfig(width=16), CPU)
    settings = DistilLossConfig(**({"regression": 0.0, "real": 1.0, "own_context": 0.0} | losses))
    return DistilLoss(student, judge, head(student), settings, adversary=adversary)


def head(student: Any) -> OutcomeHead:
    return OutcomeHead(dim=student.config.dim)


def losses_of(objective: DistilLoss, windows: Windows, seed: int = 1) -> dict[str, Tensor]:
    return objective(windows, None, INTRINSICS, torch.Generator().manual_seed(seed))


def edges(seed: int) -> Windows:
    """Windows whose frames are chessboards of random colours, with a memory of nothing."""
    generator = torch.Generator().manual_seed(seed)
    board = (torch.arange(SIZE)[:, None] // 2 + torch.arange(SIZE) // 2) % 2
    colours = torch.randint(40, 216, (B, T, 3, 1, 1), generator=generator)
    rgb = colours + 40 * (2 * board - 1)
    windows = random_windows()
    assert windows.view is not None
    return dataclasses.replace(
        windows, rgb=rgb.to(torch.uint8), view=torch.zeros_like(windows.view)
    )


def test_the_relativistic_loss_by_hand() -> None:
    """log(1 + exp(worse - better)): log 2 for equal logits, log(1 + 1/e) one logit ahead."""
    found = relativistic_loss(torch.tensor([0.0, 3.0, 2.0]), torch.tensor([0.0, 2.0, 3.0]))
    expected = [math.log(2.0), math.log(1 + math.exp(-1)), math.log(1 + math.e)]
    assert found.tolist() == pytest.approx(expected)


def test_clips_and_detail_by_hand() -> None:
    """Frames 0 to 5 give the clips 0123, 1234, 2345; a ramp of 0.1 a pixel has detail 0.1."""
    x = torch.arange(6.0)[None, :, None, None, None].expand(1, 6, 1, 2, 2)
    assert as_clips(x)[0, :, :, 0, 0].tolist() == [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]]
    ramp = 0.1 * torch.arange(8.0).expand(1, 1, 4, 8, 8)
    assert detail(ramp).item() == pytest.approx(0.1)


def test_frames_after_generated_ones() -> None:
    """Context frame 2 is the student's own: with a window of 4, frames 3 to 5 follow it. A memory
    that holds dreamed frames, an invented pixel and a dreamed frame in the context count, too."""
    windows, own = random_windows(), torch.zeros(B, T, dtype=torch.bool)
    assert not follows_generated(windows, own, 4).any()
    own[0, 2] = True
    assert follows_generated(windows, own, 4).nonzero().tolist() == [[0, 3], [0, 4], [0, 5]]
    dreamed, invented = torch.zeros_like(own), torch.zeros(B, T, SIZE, SIZE, dtype=torch.bool)
    dreamed[1, 11], invented[1, 0, 3, 3] = True, True
    own_rgb = windows.rgb.clone()
    own_rgb[1, 6, 0, 0, 0] += 1
    changed = dataclasses.replace(windows, dreamed=dreamed, invented=invented, own_rgb=own_rgb)
    found = follows_generated(changed, torch.zeros_like(own), 3).nonzero().tolist()
    assert found == [[1, 0], [1, 7], [1, 8], [1, 11]]


def test_levels_are_what_the_network_computes() -> None:
    """Blocks, then pixel levels from coarse to fine; the finest one is what the output layer
    reads."""
    net, condition = network(3).eval(), None
    objective = DistilLoss(net, net, head(net), DistilLossConfig())
    windows = random_windows()
    condition = objective._condition(windows, INTRINSICS, 2)
    mask = objective._mask(T, torch.zeros(B, dtype=torch.int64))
    x, sigma = torch.cat([windows.x] * 2, 1), torch.full((B, 2 * T), 0.1)
    arguments = (x, sigma, condition, mask, torch.arange(T).repeat(2))
    with torch.no_grad():
        levels = net.levels_of(*arguments, outputs=T)
        out, features, _ = net(*arguments, outputs=T)
        last = levels[-1].flatten(0, 1)
        drawn = net.out(F.silu(net.out_norm(last))).unflatten(0, (B, T))
    assert [tuple(x.shape[1:]) for x in levels] == [
        (T, 32, 2, 2), (T, 32, 2, 2), (T, 16, 4, 4), (T, 8, 8, 8), (T, 8, 16, 16)
    ]  # fmt: skip
    torch.testing.assert_close(levels[1].mean((3, 4)), features[:, -T:])
    torch.testing.assert_close(drawn + condition.view[:, T:, :4], out)


def judged(adversary: Adversary, fake: Tensor, alone: bool, seed: int = 3) -> Any:
    """What is said about predictions for random windows."""
    windows, net = random_windows(), adversary.levels.network
    objective = DistilLoss(net, net, head(net), DistilLossConfig())
    return adversary.judge(
        windows.x,
        torch.full((B, T), 0.05),
        objective._condition(windows, INTRINSICS, 1),
        objective._mask(T, torch.zeros(B, dtype=torch.int64), 3),
        torch.full((B, T), alone),
        torch.ones(B, T),
        (windows.x, fake),
        torch.Generator().manual_seed(seed),
    )


def test_the_penalty_by_hand() -> None:
    """Of heads whose last bias alone is not zero, all logits are equal: nothing changes with noise.
    With random heads, the loss is that of the logits plus the weighted penalty."""
    net = network(0).eval().requires_grad_(False)
    adversary = Adversary(net, AdversarialConfig(width=16, penalty=3.0), CPU)
    fake = random_windows().x.flip(-1)
    said = judged(adversary, fake, alone=False)
    assert float(said.loss.detach()) == pytest.approx(math.log(2.0))
    assert said.gradient.abs().max() == 0.0
    with torch.no_grad():
        for one in adversary.discriminator.parameters():
            one.normal_(0.0, 0.2)
    said = judged(adversary, fake, alone=False)
    told = {k: float(v) for k, v in said.told.items()}
    assert told["logit_penalty"] > 0.0
    assert float(said.loss.detach()) == pytest.approx(
        told["discriminator_error"] + 3.0 * told["logit_penalty"], rel=1e-5
    )
    # The true frames judged against themselves: no head can tell.
    same = judged(adversary, random_windows().x, alone=False)
    assert float(same.told["discriminator_error"]) == pytest.approx(math.log(2.0), rel=1e-4)


def test_frames_alone_are_judged_without_context_and_memory() -> None:
    """Other context and memory change nothing for them, and everything for the others."""
    net = network(0).eval().requires_grad_(False)
    adversary = Adversary(net, AdversarialConfig(width=16), CPU)
    windows = random_windows()
    assert windows.view is not None
    objective = DistilLoss(net, net, head(net), DistilLossConfig())
    alone = torch.zeros(B, T, dtype=torch.bool)
    alone[:, 5:] = True
    mask = objective._mask(T, torch.zeros(B, dtype=torch.int64), 1)

    def features(batch: Windows, context: Tensor) -> list[Tensor]:
        sigma = torch.full((B, T), 0.1)
        condition = objective._condition(batch, INTRINSICS, 1)
        return adversary._features(context, sigma, condition, mask, alone, [windows.x], sigma)

    ours = features(windows, windows.x)
    other = features(dataclasses.replace(windows, view=windows.view.flip(0)), windows.x.flip(0))
    for a, b in zip(ours, other, strict=True):
        torch.testing.assert_close(a[:, 5:], b[:, 5:])
        assert (a[:, :5] - b[:, :5]).abs().max() > 1e-3


def test_gradients_reach_the_student_and_the_heads_alone() -> None:
    objective = made()
    adversary = objective.adversary
    assert adversary is not None
    with torch.no_grad():
        for one in adversary.discriminator.parameters():
            one.normal_(0.0, 0.2)
    result = losses_of(objective, random_windows())
    result["loss"].backward(retain_graph=True)
    assert all(p.grad is not None for p in objective.network.parameters())
    assert all(p.grad is None for p in adversary.discriminator.parameters())
    assert all(p.grad is None for p in objective.teacher.parameters())
    before = [p.grad.clone() for p in objective.network.parameters() if p.grad is not None]
    result["discriminator"].backward()
    assert all(p.grad is not None for p in adversary.discriminator.parameters())
    assert all(
        torch.equal(a, p.grad)
        for a, p in zip(before, objective.network.parameters(), strict=True)
        if p.grad is not None
    )
    names = {name.partition(".")[0] for name in objective.state_dict()}
    assert names == {"network", "outcome"}


def test_the_weight_is_the_share_of_the_gradient() -> None:
    """At the predicted colours, the adversarial gradient is half as strong as the others'."""
    objective = made(AdversarialConfig(width=16, weight=0.5, most=1e9))
    assert objective.adversary is not None
    with torch.no_grad():
        for one in objective.adversary.discriminator.parameters():
            one.normal_(0.0, 0.2)
    prediction = random_windows().x.flip(-1).requires_grad_()
    said = judged(objective.adversary, prediction, alone=False)
    loss = prediction.square().mean()
    (others,) = torch.autograd.grad(loss, prediction, retain_graph=True)
    _, term = objective._adversarial(loss, prediction, said)
    (pull,) = torch.autograd.grad(term, prediction)
    assert float(pull[:, :, :3].norm() / others[:, :, :3].norm()) == pytest.approx(0.5, rel=1e-4)
    cosine = F.cosine_similarity(pull.flatten(), said.gradient.flatten(), dim=0)
    assert float(cosine) == pytest.approx(1.0, abs=1e-4)


def test_blurred_frames_are_told_apart_and_sharpened() -> None:
    """Against chessboards that a blur has flattened: the logits separate within some steps, and the
    gradient then raises the contrast of the blurred frames."""
    torch.manual_seed(0)
    net = network(0).eval().requires_grad_(False)
    adversary = Adversary(net, AdversarialConfig(width=16, learning_rate=2e-3, penalty=0.1), CPU)
    objective = DistilLoss(net, net, head(net), DistilLossConfig())
    hidden = torch.zeros(B, dtype=torch.int64)
    mask, alone = objective._mask(T, hidden, 3), torch.ones(B, T, dtype=torch.bool)
    for step in range(30):
        windows = edges(step)
        blurred = 0.5 * windows.x + 0.5 * windows.x.mean((3, 4), keepdim=True)
        said = adversary.judge(
            windows.x, torch.zeros(B, T), objective._condition(windows, INTRINSICS, 1), mask, alone,
            torch.ones(B, T), (windows.x, blurred), torch.Generator().manual_seed(step),
        )  # fmt: skip
        adversary.update(said.loss)
    assert float(said.told["accuracy"]) > 0.9
    assert float(said.told["real_logit"] - said.told["fake_logit"]) > 0.5
    sharper = blurred - 0.3 * said.gradient / said.gradient.abs().max()
    assert (detail(sharper) > detail(blurred)).all()
    assert detail(sharper).mean() > 1.05 * detail(blurred).mean()


def mcm(teacher: Path, rooms: Path, out: Path, **changes: Any) -> Any:
    return config(
        teacher,
        rooms,
        out,
        {"regression": 0.0, "real": 1.0, "own_context": 0.0},
        **(
            {
                "method": "mcm",
                "adversarial": AdversarialConfig(width=8, discriminator_steps=1),
                "training_steps": 4,
            }
            | changes
        ),
    )


def adversary_state(trainer: DistilTrainer) -> dict[str, Tensor]:
    assert trainer.adversary is not None
    return state_of(trainer) | {k: v.clone() for k, v in trainer.adversary.state().items()}


def test_a_resumed_run_is_the_same_run(tmp_path: Path, rooms: Path, teacher: Path) -> None:
    """The first step trains the discriminator alone. Four steps at once, or two, a checkpoint, and
    two more: every tensor is equal, those of the discriminator too."""
    settings = mcm(teacher, rooms, tmp_path)
    settings = dataclasses.replace(settings, perturb=dataclasses.replace(settings.perturb, own=0.0))
    through = DistilTrainer(settings)
    through.wait_for_data()
    first = {k: v.clone() for k, v in through.network.state_dict().items()}
    for step in range(4):
        if step == 1:
            assert_equal(dict(through.network.state_dict()), first)
        if step == 2:
            through.save()
        assert math.isfinite(float(through.train_step()["loss"].detach()))
    assert not torch.equal(through.network.position.detach(), first["position"])
    resumed = DistilTrainer(settings)
    assert resumed.resume() and resumed.step == 2
    resumed.wait_for_data()
    for _ in range(2):
        resumed.train_step()
    assert_equal(adversary_state(resumed), adversary_state(through))


def test_a_run_without_discriminator_does_not_go_on_with_one(
    tmp_path: Path, rooms: Path, teacher: Path
) -> None:
    trainer = DistilTrainer(config(teacher, rooms, tmp_path))
    trainer.wait_for_data()
    trainer.save()
    with pytest.raises(InvalidInputError, match="other values of method"):
        DistilTrainer(mcm(teacher, rooms, tmp_path)).resume()


def test_the_log_and_the_card_tell(tmp_path: Path, rooms: Path, teacher: Path) -> None:
    from worldsim.training.distil import distil

    told: list[tuple[int, ...]] = []

    def measure(predicted: Tensor, true: Tensor) -> dict[str, float]:
        told.append((*predicted.shape, *true.shape))
        return {"frechet_distance": 12.0}

    distil(mcm(teacher, rooms, tmp_path, sample_every=2), measure=measure)
    (entry,) = read_json(tmp_path / "history.json")
    assert entry.keys() >= {
        "real_logit", "fake_logit", "accuracy", "logit_penalty", "discriminator_error",
        "adversarial_error", "adversarial_weight_ratio", "detail_ratio", "dreamed_detail_ratio",
        "known_loss", "known_mse", "gradient_norm",
    }  # fmt: skip
    assert entry["frechet_distance"] == 12.0 and len(told) == 2
    assert told[0] == (24, 3, 32, 32, 24, 3, 32, 32)
    student = World.from_pretrained(tmp_path / "world", device="cpu")
    assert student.card["distilled"]["method"]["adversarial"]["weight"] == 0.5


def test_bad_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="weight = 0"):
        AdversarialConfig(weight=0.0)
    with pytest.raises(InvalidInputError, match=r"sigma = \(0.7, 0.05\): two noise levels"):
        AdversarialConfig(sigma=(0.7, 0.05))
    with pytest.raises(InvalidInputError, match="method = 'gan'"):
        config(tmp_path, tmp_path, tmp_path, method="gan")
    net = network(0)
    with pytest.raises(InvalidInputError, match=r"blocks = \(2,\): the network has blocks 0 to 1"):
        Discriminator(net, AdversarialConfig(blocks=(2,)))
