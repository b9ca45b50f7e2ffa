"""Noise levels, batches, memories and sampling of the painter."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from worldsim.camera import quantise_depth
from worldsim.errors import InvalidInputError
from worldsim.painting.channels import clean_channels, rays_of, scale, unscale
from worldsim.painting.levels import loss_of, shift_for, shift_levels
from worldsim.painting.network import PainterBatch, PainterNetwork
from worldsim.painting.sampling import PaintConfig, frames_of, paint, sigmas_for
from worldsim.painting.training.batches import (
    VIEW_COUNTS,
    BatchConfig,
    BatchMaker,
    balance_weights,
    memory_channels,
    mirror,
    near_noise_levels,
)
from worldsim.painting.training.store import ViewStore
from worldsim.painting.training.views import ViewSets


def maker(store: ViewStore, seed: int = 0, **config: float) -> BatchMaker:
    generator = torch.Generator().manual_seed(seed)
    return BatchMaker(store, dataclasses.replace(BatchConfig(), **config), generator)


def test_levels_shift_with_the_number_of_views():
    # Four views: a factor of 2, so one half becomes 2 / 3.
    assert shift_for(4) == 2.0 and shift_for(1) == 1.0
    assert shift_levels(torch.tensor(0.5), torch.tensor(2.0)) == pytest.approx(2 / 3)
    sigmas = sigmas_for(4, 4)
    assert len(sigmas) == 5 and sigmas[0] == 1.0 and sigmas[-1] == 0.0
    # Levels 1, 3/4, 1/2, 1/4, each shifted.
    torch.testing.assert_close(sigmas[:4], torch.tensor([1.0, 6 / 7, 2 / 3, 2 / 5]))


def test_the_loss_is_that_of_the_velocity_where_there_is_noise():
    clean, predicted = torch.zeros(1, 2, 5, 2, 2), torch.full((1, 2, 5, 2, 2), 0.3)
    level = torch.tensor([[[0.5, 0.5], [0.0, 0.0]]])
    # (0.3 / 0.5)^2 in the noisy view, nothing in the given one.
    assert float(loss_of(predicted, clean, level)) == pytest.approx(0.36)
    # Below 0.05 the weight stays at 400.
    assert float(loss_of(predicted, clean, level * 0.02)) == pytest.approx(0.09 * 400)


def test_channels_are_scaled_and_come_back():
    rgb = torch.full((1, 3, 4, 4), 51, dtype=torch.uint8)
    # Depth 4 m is the middle of the depth channel, 0 in [-1, 1]; one pixel is sky.
    code = quantise_depth(torch.full((1, 4, 4), 4.0))
    code[0, 0, 0] = 0
    clean = clean_channels(rgb, code)
    # 51 is 0.2 of 255, so -0.6 in [-1, 1]: 0.07 above the mean, times 3.
    assert float(clean[0, 0, 1, 1]) == pytest.approx(0.21, abs=1e-5)
    assert float(clean[0, 3, 1, 1]) == pytest.approx(0.0, abs=1e-3)
    assert float(clean[0, 3, 0, 0]) == -2.0 and float(clean[0, 4, 0, 0]) == 1.0
    torch.testing.assert_close(scale(unscale(clean)), clean)
    frame = frames_of(clean, torch.eye(4)[None])
    assert torch.equal(frame.rgb, rgb) and torch.equal(frame.inverse_depth == 0, code == 0)


def test_a_memory_of_a_view_shows_it_to_itself(store: ViewStore):
    drawn = store.get(torch.tensor([0, 1]))
    keep = torch.ones_like(drawn.code[:, :1], dtype=torch.bool)
    shown = memory_channels(
        drawn.rgb[:, :1],
        drawn.code[:, :1],
        drawn.pose[:, :1],
        keep,
        drawn.pose[:, :2],
        store.intrinsics,
    )
    clean = clean_channels(drawn.rgb[:, 0], drawn.code[:, 0])
    assert bool((shown[:, 0, 4] == 1).all())
    torch.testing.assert_close(shown[:, 0, :4], clean[:, :4], atol=1e-5, rtol=0)
    # A camera beside it sees only part, and holes are zeros.
    holes = shown[:, 1, 4] == 0
    assert holes.any() and bool((shown[:, 1] * holes[:, None] == 0).all())
    assert not memory_channels(
        drawn.rgb[:, :1],
        drawn.code[:, :1],
        drawn.pose[:, :1],
        ~keep,
        drawn.pose[:, :2],
        store.intrinsics,
    ).any()


def test_mirrored_worlds_are_seen_as_mirrored_pictures(store: ViewStore):
    drawn = store.get(torch.tensor([0]))
    flipped = mirror(drawn, torch.tensor([True]))
    keep = torch.ones_like(drawn.code[:, :1], dtype=torch.bool)

    def shown(of: object) -> torch.Tensor:
        rgb, code, pose = of.rgb, of.code, of.pose  # type: ignore[attr-defined]
        return memory_channels(
            rgb[:, :1], code[:, :1], pose[:, :1], keep, pose[:, 1:2], store.intrinsics
        )

    torch.testing.assert_close(
        shown(flipped).flip(-1)[..., 4, :, 1:-1], shown(drawn)[..., 4, :, 1:-1]
    )
    assert torch.equal(mirror(flipped, torch.tensor([True])).pose, drawn.pose)


def test_rays_of_the_first_view_start_at_the_origin(store: ViewStore):
    pose = store.get(torch.tensor([0])).pose[:, :3]
    rays = rays_of(pose, store.intrinsics, 16, 16)
    assert rays.shape == (1, 3, 6, 16, 16)
    assert float(rays[:, 0, :3].abs().max()) < 1e-5
    torch.testing.assert_close(rays[:, :, 3:].norm(dim=2), torch.ones(1, 3, 16, 16))


@pytest.mark.parametrize("views", VIEW_COUNTS)
def test_batches(store: ViewStore, views: int):
    example = maker(store).make(4, views)
    batch = example.batch
    assert batch.noisy.shape == example.clean.shape == (4, views, 5, 16, 16)
    assert batch.memory.shape == (4, views, 5, 16, 16) and batch.rays.shape == (4, views, 6, 16, 16)
    assert bool(((batch.level >= 0) & (batch.level <= 1)).all())
    given = batch.level[..., 0] == 0
    torch.testing.assert_close(batch.noisy[given][:, :3], example.clean[given][:, :3])
    assert bool((batch.level > 0).flatten(1).any(1).all()), "nothing is left to learn in a set"
    again = maker(store).make(4, views)
    assert torch.equal(batch.noisy, again.batch.noisy) and torch.equal(
        batch.memory, again.batch.memory
    )


def test_memory_and_attributes_are_dropped_as_often_as_said(store: ViewStore):
    example = maker(store, no_memory=1.0, no_attributes=1.0).make(8, 2)
    assert not example.batch.memory.any() and not example.batch.known.any()
    example = maker(store, no_memory=0.0, no_attributes=0.0, some_attributes=0.0, damaged=0.0).make(
        8, 2
    )
    assert example.batch.memory[:, :, 4].mean() > 0.2 and bool(example.batch.known.all())


def test_levels_near_noise_are_those_of_whole_sets(store: ViewStore):
    level = maker(store, near_noise=1.0, given=0.0).make(30, 3).batch.level
    assert torch.equal(level, level[:, :1, :1].expand_as(level)) and float(level.min()) >= 0.9
    drawn = near_noise_levels((3000,), torch.Generator().manual_seed(0), torch.device("cpu"))
    assert float((drawn == 1.0).float().mean()) == pytest.approx(1 / 3, abs=0.03)
    # The logarithm is uniform: half of the others lie beyond 0.99.
    assert float((drawn[drawn < 1.0] > 0.99).float().mean()) == pytest.approx(0.5, abs=0.04)


def test_few_attributes_are_given_in_any_number(store: ViewStore):
    known = maker(store, few_attributes=1.0, no_attributes=0.0).make(500, 1).batch.known
    # Each is given with a probability p that is uniform, so all a are with E[p^a] = 1 / (a + 1).
    assert float(known.mean()) == pytest.approx(0.5, abs=0.06)
    assert float(known.prod(1).mean()) == pytest.approx(1 / (known.shape[1] + 1), abs=0.07)


def test_rare_values_are_drawn_as_often_as_common_ones(sets: ViewSets):
    # Nine places without, and one with each quarter of the second attribute; all have the first.
    second = torch.tensor([0.0] * 9 + [0.1, 0.3, 0.5, 0.9])
    first = torch.full((13,), 0.5)
    weights = balance_weights(torch.stack([first, second], 1))
    assert float(weights.sum()) == pytest.approx(1.0)
    # Half of the draws look at the first attribute: 1/13. The others take one of five classes.
    wanted = torch.tensor([0.5 / 13 + 0.5 / 5 / 9] * 9 + [0.5 / 13 + 0.5 / 5] * 4)
    torch.testing.assert_close(weights, wanted)


def test_balanced_sets_follow_the_weights(store: ViewStore):
    balanced = maker(store, balanced=1.0)
    index = balanced.make(8, 1)
    assert index.batch.attributes.shape == (8, len(store.names))
    same = maker(store, balanced=1.0).make(8, 1)
    assert torch.equal(index.clean, same.clean)


def test_too_few_views_for_a_memory(sets: ViewSets):
    few = dataclasses.replace(
        sets,
        **{
            name: getattr(sets, name)[:, :9]
            for name in ("rgb", "inverse_depth", "pose", "attributes")
        },
    )
    with pytest.raises(InvalidInputError, match="9 views"):
        maker(ViewStore(few, 4, torch.device("cpu")))


def test_old_sets_make_way(sets: ViewSets):
    store = ViewStore(sets, 3, torch.device("cpu"))
    store.add(sets)
    assert len(store) == 3 and store.added == 5
    kept = store.get(torch.tensor([0, 1, 2])).rgb.permute(0, 1, 3, 4, 2).numpy()
    assert (kept == sets.rgb[[3, 4, 2]]).all()


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_painting_keeps_what_is_given_and_repeats(store: ViewStore, guidance: float):
    torch.manual_seed(0)
    network = PainterNetwork(("brick", "sky"), dim=32, depth=2, heads=2, pixel=8).eval()
    example = maker(store).make(2, 3)
    batch: PainterBatch = example.batch
    unknown = torch.ones(2, 3, 2, dtype=torch.bool)
    unknown[:, 0, 0] = False
    noise = torch.randn(example.clean.shape, generator=torch.Generator().manual_seed(1))
    arguments = (
        example.clean,
        unknown,
        batch.memory,
        batch.rays,
        batch.attributes,
        batch.known,
        noise,
    )
    painted = paint(network, *arguments, PaintConfig(3, guidance))
    assert torch.equal(painted[:, 0, :3], example.clean[:, 0, :3])
    assert torch.equal(painted, paint(network, *arguments, PaintConfig(3, guidance)))
    # An untrained network predicts grey: what was unknown ends there.
    assert bool((painted[:, 1:] == 0).all())
    channels = painted.flatten(0, 1).clone()
    channels[:, 4] = 1.0
    frame = frames_of(channels, torch.eye(4).expand(6, 4, 4))
    assert frame.inverse_depth is not None and not frame.inverse_depth.any()
