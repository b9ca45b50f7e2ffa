"""Pictures of a session, by hand."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from worldsim.sessions.crates import crate_points
from worldsim.sessions.protocol import PictureFormat, View
from worldsim.sessions.views import encode, psnr_of, with_alpha

pytestmark = pytest.mark.fast


def test_psnr() -> None:
    frame = np.zeros((2, 2, 3), np.uint8)
    assert psnr_of(frame, frame) is None
    assert psnr_of(frame, frame + 255) == 0.0
    # A mean square of 1: 20 log10(255).
    assert psnr_of(frame, frame + 1) == pytest.approx(48.1308, abs=1e-4)


def test_holes_are_transparent() -> None:
    rgb = np.full((1, 2, 3), 7, np.uint8)
    shown = with_alpha(rgb, np.array([[True, False]]))
    assert shown.tolist() == [[[7, 7, 7, 255], [7, 7, 7, 0]]]
    name, kind, shape, content = encode(View.MEMORY, shown, PictureFormat.PNG)
    assert (name, kind, tuple(shape)) == ("memory", "png", (1, 2, 4))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), shown)
    _, _, shape, content = encode(View.MEMORY, shown, PictureFormat.JPEG)
    assert tuple(shape) == (1, 2, 3) and Image.open(io.BytesIO(content)).mode == "RGB"


def test_depth_is_metres_or_a_picture() -> None:
    depth = np.array([[1.0, np.inf]], np.float32)
    _, kind, shape, content = encode(View.DEPTH, depth, PictureFormat.RAW)
    assert kind == "raw/float32" and np.frombuffer(content, np.float32).tolist() == [1.0, np.inf]
    _, kind, shape, _ = encode(View.DEPTH, depth, PictureFormat.PNG)
    assert kind == "png" and tuple(shape) == (1, 2, 3)


def test_a_crate_stands_on_the_ground() -> None:
    position, colour = crate_points(2.0, (150, 104, 58), 100_000)
    assert position.dtype == np.float32 and colour.dtype == np.uint8
    np.testing.assert_allclose(position.min(0), [-1, -1, 0], atol=0.02)
    np.testing.assert_allclose(position.max(0), [1, 1, 2], atol=0.02)
    assert len(position) == len(colour) == 6 * 100**2
    # Each point lies on one of the six sides.
    on_side = np.isclose(np.abs(position[:, :2]), 1).any(1) | np.isclose(position[:, 2] % 2, 0)
    assert on_side.all()
    assert len(crate_points(2.0, (150, 104, 58), 600)[0]) == 600
    assert 60 < colour[:, 0].mean() < 150
