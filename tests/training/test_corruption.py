"""What a walk is degraded and dreamed with: lengths of dreams, and a dreaming copy that is compiled
once for all weights."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.training import network
from worldsim.errors import InvalidInputError
from worldsim.state import Frame
from worldsim.training.corruption import Degradation, OwnFrames, PerturbConfig, degrade
from worldsim.world.engine import PLAIN, Compiled, EngineConfig

ROWS, SIZE = 4, 16


@torch.no_grad()
def dreamed(
    own: OwnFrames, frames: tuple[float, float], length: int, rows: int = ROWS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Colours (rows, length, c, h, w) that walks of black frames go on from, and which are dreamed
    (rows, length)."""
    n, walk = own.network.config, own.walk(rows, torch.Generator().manual_seed(0), frames)
    depth = (
        torch.full((rows, n.height, n.width), 4000, dtype=torch.int32) if n.channels == 4 else None
    )
    true = Frame(torch.zeros(rows, 3, n.height, n.width, dtype=torch.uint8), depth, None)
    act, motion, intrinsics = (
        torch.zeros(rows, dtype=torch.long),
        torch.zeros(rows, 6),
        torch.full((rows, 4), 8.0),
    )
    context, dreaming, found = (
        own.dynamics.empty(rows, "cpu"),
        torch.zeros(rows, dtype=torch.bool),
        [],
    )
    for _ in range(length):
        frame, dreaming, context = own.dream(
            context, dreaming, true, act, motion, None, intrinsics, walk.draw()
        )
        found.append((frame.rgb, dreaming))
    return torch.stack([rgb for rgb, _ in found], 1), torch.stack(
        [is_dreamed for _, is_dreamed in found], 1
    )


def test_lengths_of_dreamed_parts() -> None:
    """Stretches of two frames on average, and of a thousand: they end soon, and never."""
    own = OwnFrames(network(0, height=8, width=8, channels=3, view_channels=0, actions=3))
    short, long = (
        dreamed(own, frames, 60, rows=64)[1] for frames in ((2.0, 2.0), (1000.0, 1000.0))
    )
    ends = short[:, :-1] & ~short[:, 1:]
    assert float(ends.sum() / short[:, :-1].sum()) == pytest.approx(0.5, abs=0.1)
    assert float(long[:, -1].float().mean()) > 0.9 and not long[:, :8].any()


@pytest.mark.parametrize("frames", [(0.5, 4.0), (8.0, 4.0)])
def test_lengths_that_are_none(frames: tuple[float, float]) -> None:
    with pytest.raises(
        InvalidInputError, match="own_frames = .* two lengths of at least 1, shorter one first"
    ):
        PerturbConfig(own_frames=frames)


def test_a_compiled_copy_dreams_the_same_and_takes_new_weights() -> None:
    """Within rounding, also after other weights were copied in; nothing is compiled for them again,
    the source stays as it is."""
    small = {"view_channels": 0, "depth": 1, "fold": 2, "levels": (8, 16)}
    first, second = (network(seed, **small) for seed in (0, 1))
    before = {name: value.clone() for name, value in first.state_dict().items()}
    plain, compiled = OwnFrames(first), OwnFrames(first, EngineConfig(compile="default"))
    seen = []
    for weights in (first, second):
        plain.follow(weights.state_dict())
        compiled.follow(weights.state_dict())
        with (
            torch.compiler.set_stance("fail_on_recompile")
            if seen
            else torch.compiler.set_stance("default")
        ):
            (rgb, which), (other, others) = (
                dreamed(own, (64.0, 64.0), 20) for own in (plain, compiled)
            )
        assert torch.equal(which, others) and which.any()
        # A dreamed frame is rounded to whole codes, and the next one goes on from that.
        assert (
            int((rgb.int() - other.int()).abs().max()) <= 3
            and float((rgb != other).float().mean()) < 0.02
        )
        seen.append(rgb)
    assert not torch.equal(*seen)
    forward = compiled.dynamics._forward
    assert isinstance(forward, Compiled) and forward.compiled is not None
    assert all(torch.equal(value, before[name]) for name, value in first.state_dict().items())


def test_a_copy_in_bfloat16_follows_in_place() -> None:
    """Its weights are the trained ones, rounded, where they were: what was compiled or captured
    reads them there."""
    own = OwnFrames(network(0), EngineConfig(precision="bfloat16"))
    places = [p.data_ptr() for p in own.network.parameters()]
    other = network(1)
    own.follow(other.state_dict())
    assert [p.data_ptr() for p in own.network.parameters()] == places
    for mine, theirs in zip(own.network.parameters(), other.parameters(), strict=True):
        assert mine.dtype == torch.bfloat16 and torch.equal(
            mine, theirs.detach().to(torch.bfloat16)
        )
    assert OwnFrames(other, PLAIN).network.position is not other.position


def test_damage_by_hand() -> None:
    """Nothing asked for, nothing done; depth that is 3% off at most; a share of the frames is left
    out."""
    frame = Frame(
        torch.randint(0, 256, (64, 3, 4, 4), dtype=torch.uint8),
        torch.full((64, 4, 4), 4096, dtype=torch.int32),
        None,
    )
    none = Degradation(PerturbConfig(0.0, 0.0, 0.0), 64, torch.Generator().manual_seed(0)).draw(
        4, 4
    )
    same = degrade(frame, none)
    assert bool(none.keep.all()) and torch.equal(same.rgb, frame.rgb)
    assert same.inverse_depth is not None and torch.equal(same.inverse_depth, frame.inverse_depth)  # type: ignore[arg-type]
    drawing = Degradation(PerturbConfig(1.0, 0.0, 1.0), 64, torch.Generator().manual_seed(0))
    draws = [drawing.draw(4, 4) for _ in range(200)]
    kept = torch.stack([d.keep for d in draws]).float().mean(0)
    assert (
        float((kept - drawing.keep_share).abs().max()) < 0.15
        and 0.05 < float(kept.min()) < float(kept.max()) < 0.95
    )
    spread = torch.stack([d.depth for d in draws]).std(0)
    torch.testing.assert_close(spread, drawing.depth_scale, rtol=0.25, atol=0.0)
    assert float(drawing.depth_scale.max()) <= 0.03
