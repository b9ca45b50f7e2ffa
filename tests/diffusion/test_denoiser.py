"""Coding and noising of frames: what goes in comes out."""

from __future__ import annotations

import pytest
import torch

from worldsim.camera import FAR_CHANNEL, code_to_channel
from worldsim.diffusion.denoiser import (
    add_noise,
    channels_to_frame,
    frame_to_channels,
    keep_still,
    last_frames_to_channels,
    view_to_channels,
)
from worldsim.state import Frame, LastFrames, MemoryView

pytestmark = pytest.mark.fast


def test_every_colour_comes_back() -> None:
    rgb = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    x = frame_to_channels(rgb, None)
    assert (float(x.min()), float(x.max())) == (-1.0, 1.0)
    frame = channels_to_frame(x, None)
    assert torch.equal(frame.rgb, rgb)
    assert frame.inverse_depth is None and frame.pose is None


def test_every_depth_code_comes_back() -> None:
    """Within one code of 65,535; beyond the far end of the channel all is infinitely far."""
    code = torch.arange(65536, dtype=torch.int32).view(1, 256, 256)
    x = frame_to_channels(torch.zeros(1, 3, 256, 256, dtype=torch.uint8), code)
    assert x.shape == (1, 4, 256, 256) and float(x.min()) == -1.0 and float(x.max()) < 1.0
    back = channels_to_frame(x, None).inverse_depth
    assert back is not None and back.dtype == torch.int32
    channel = code_to_channel(code)
    near, far = channel > FAR_CHANNEL * 1.001, channel < FAR_CHANNEL * 0.999
    assert int((back - code)[near].abs().max()) <= 1
    assert bool((back[far] == 0).all())
    # Code 0.02 / 0.98 / 4 * 65535 * 0.125 = 41.8 is the last that counts as far: all but 42 codes
    # are kept.
    assert int(near.sum()) == 65536 - 42


def test_out_of_range_predictions_are_clamped() -> None:
    x = torch.tensor([3.0, -2.0, 0.0, 5.0]).view(1, 4, 1, 1)
    frame = channels_to_frame(x, torch.eye(4)[None])
    assert frame.rgb.flatten().tolist() == [255, 0, 128]
    assert frame.inverse_depth is not None and frame.inverse_depth.flatten().tolist() == [65535]
    assert frame.pose is not None


def test_noise_goes_in_a_straight_line() -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(2, 3, 4, 5, 5, generator=generator) for _ in range(2))
    assert torch.equal(add_noise(x, noise, torch.zeros(2, 3)), x)
    assert torch.equal(add_noise(x, noise, torch.ones(2, 3)), noise)
    level = torch.tensor([[0.0, 0.25, 1.0], [1.0, 0.0, 0.5]])
    out = add_noise(x, noise, level)
    torch.testing.assert_close(out[0, 1], 0.75 * x[0, 1] + 0.25 * noise[0, 1])
    torch.testing.assert_close(out[1, 2], 0.5 * (x[1, 2] + noise[1, 2]))
    assert torch.equal(out[0, 0], x[0, 0]) and torch.equal(out[1, 0], noise[1, 0])


def test_view_channels_by_hand() -> None:
    """One pixel at 4 m with offset (0, 15), seen from 4 m, beside a hole: offsets -15/16 and 15/16,
    the hole all zeros."""
    view = MemoryView(
        rgb=torch.tensor([[255, 0], [0, 0], [51, 0]], dtype=torch.uint8).view(1, 3, 1, 2),
        inverse_depth=torch.tensor([[[2048, 0]]], dtype=torch.int32),
        mask=torch.tensor([[[True, False]]]),
        offset=torch.tensor([[0, 0], [15, 0]], dtype=torch.uint8).view(1, 2, 1, 2),
        source=torch.tensor([[[128, 0]]], dtype=torch.uint8),
    )
    x = view_to_channels(view)
    expected = torch.tensor([1.0, -1.0, -0.6, 0.0, 1.0, -15 / 16, 15 / 16, 128 / 255])
    torch.testing.assert_close(x[0, :, 0, 0], expected, atol=1e-4, rtol=0)
    assert not x[0, :, 0, 1].any()


def test_pixels_that_hardly_change_keep_their_colour() -> None:
    """Of a picture of 100, a change of 2 is left out and one of 3 is not, with all of its colours;
    depth, and pictures without a frame before, stay."""
    rgb = torch.full((2, 3, 1, 2), 100, dtype=torch.uint8)
    depth = torch.zeros(2, 1, 2, dtype=torch.int32)
    last = LastFrames(Frame(rgb, depth, None), torch.tensor([True, False]), torch.zeros(2, 5, 1, 2))
    x = frame_to_channels(rgb, depth)
    x[:, 0, 0, 0] += 2.0 / 127.5
    x[:, 0, 0, 1] += 3.0 / 127.5
    x[:, 1, 0, 1] -= 1.0 / 127.5
    x[:, 3] += 0.01
    kept = keep_still(x, last_frames_to_channels(last, 4), 2.0)
    frame = channels_to_frame(kept, None)
    assert frame.rgb[0, :, 0].tolist() == [[100, 103], [100, 99], [100, 100]]
    assert frame.rgb[1, :, 0].tolist() == [[102, 103], [100, 99], [100, 100]]
    assert torch.equal(kept[:, 3], x[:, 3])
