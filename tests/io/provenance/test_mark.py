"""The invisible mark: it outlives the attacks, and is not found where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.marks import ATTACKS, CROP, cropped, psnr, right_bits
from worldsim.errors import InvalidInputError
from worldsim.io.pictures import enlarge
from worldsim.io.provenance import mark

PAYLOADS = (0x12345678, 0xFFFFFFFF, 0)


def film(seed: int, dark: bool = False) -> np.ndarray:
    """Sixteen frames (64, 64, 3) of a smooth moving scene with edges and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :80]
    scene = 90 + 50 * np.sin(x / 9 + seed)[..., None] * np.cos(y / 7)[..., None] * np.ones(3)
    scene[20:40, 30:50] += rng.uniform(-60, 60, 3)
    scene = scene / 8 if dark else scene
    frames = np.stack([scene[:, t : t + 64] for t in range(16)])
    return np.clip(frames + rng.normal(0, 1, frames.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", list(ATTACKS))
@pytest.mark.parametrize("dark", [False, True])
def test_bits_outlive_attacks(name: str, dark: bool) -> None:
    for seed, payload in enumerate(PAYLOADS):
        marked = np.stack(mark.embed_film(film(seed, dark), payload))
        attacked = ATTACKS[name](marked, np.random.default_rng(seed))
        crop = CROP if ATTACKS[name] is cropped else 0
        found = mark.read_film(attacked, crop)
        assert right_bits(found.payload, payload) == 1.0 and found.found
        if not crop:
            assert mark.score_of(attacked, payload)[1]


@pytest.mark.parametrize("dark", [False, True])
def test_a_mark_is_hardly_seen(dark: bool) -> None:
    clip = film(0, dark)
    marked = np.stack(mark.embed_film(clip, 7))
    assert marked.dtype == np.uint8 and marked.shape == clip.shape
    assert 40.0 <= psnr(marked, clip) < 45.0


def test_unmarked_films_have_no_mark() -> None:
    bits = []
    for seed in range(8):
        clip, payload = list(film(seed)), int(np.random.default_rng(seed).integers(0, 2**32))
        found = mark.read_film(clip)
        bits.append(right_bits(found.payload, payload))
        assert not found.found and not mark.score_of(clip, payload)[1]
    assert 0.35 < np.mean(bits) < 0.65


def test_another_payload_is_not_confirmed() -> None:
    marked = mark.embed_film(film(3), 0x01020304)
    assert mark.score_of(marked, 0x01020304)[1]
    assert not mark.score_of(marked, 0xFEFDFCFB)[1]


def test_thresholds_follow_from_hoeffdings_inequality() -> None:
    assert mark.threshold(1) == pytest.approx((2 * np.log(1e6)) ** 0.5)
    assert np.exp(-(mark.threshold(16) ** 2) / 2) * 16 == pytest.approx(1e-6)


def test_a_single_enlarged_picture() -> None:
    picture = enlarge(film(5)[0], 8)
    marked = mark.embed_picture(picture, 0xCAFE1234)
    found = mark.read_picture_mark(marked)
    assert found.found and found.payload == 0xCAFE1234
    assert psnr(marked, picture) >= 40.0
    assert not mark.read_picture_mark(picture).found


def test_hostile_sizes() -> None:
    tiny = np.zeros((2, 3, 3), np.uint8)
    assert mark.embed_picture(tiny, 1).shape == (2, 3, 3)
    mark.read_picture_mark(tiny)
    long = np.zeros((1, 5000, 3), np.uint8)
    assert not mark.read_picture_mark(long).found
    for payload in (-1, 2**32, True):
        with pytest.raises(InvalidInputError, match="payload"):
            mark.embed_picture(tiny, payload)
    with pytest.raises(InvalidInputError, match="pictures"):
        mark.read_film([])
