"""Pictures from files: a fixed list of formats, and no more memory or time than a picture of that
size may take."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from worldsim.errors import DamagedFileError, NotFoundError, OutOfMemoryError
from worldsim.io.pictures import MOST_SCANS, read_picture, save_picture


def noise(height: int = 16, width: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    for name in ("a.png", "a.webp"):
        save_picture(noise(), tmp_path / name)
        np.testing.assert_array_equal(read_picture(tmp_path / name), noise())
    codes = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    save_picture(codes, tmp_path / "codes.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "codes.png"), codes)
    assert read_picture(tmp_path / "codes.png", mode="RGB").shape == (3, 4, 3)
    with pytest.raises(NotFoundError):
        read_picture(tmp_path / "none.png")


def test_a_flipped_bit_of_a_png_is_found(tmp_path: Path) -> None:
    """Pillow decodes such a file to other pixels without a word."""
    save_picture(noise(), tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    for place in range(len(content) // 3, len(content) - 40, 97):
        damaged = content.copy()
        damaged[place] ^= 4
        (tmp_path / "b.png").write_bytes(damaged)
        with pytest.raises(DamagedFileError):
            read_picture(tmp_path / "b.png")


def test_other_formats_are_never_tried(tmp_path: Path) -> None:
    """EPS would start Ghostscript."""
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    )
    with pytest.raises(DamagedFileError, match="a.png is not a readable picture"):
        read_picture(tmp_path / "a.png")
    save_picture(noise(), tmp_path / "b.webp")
    with pytest.raises(DamagedFileError, match="give PNG"):
        read_picture(tmp_path / "b.webp", formats=("PNG",))


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (30_000, 30_000)).save(path)
    with pytest.raises(DamagedFileError, match="large.png"):
        read_picture(path)
    file = io.BytesIO()
    Image.fromarray(noise()).save(file, format="JPEG", progressive=True)
    content = file.getvalue()
    (tmp_path / "a.jpg").write_bytes(content)
    assert read_picture(tmp_path / "a.jpg").shape == (16, 24, 3)
    # The last scan again and again: each is decoded at the size of the whole picture.
    last = content.rindex(b"\xff\xda")
    (tmp_path / "scans.jpg").write_bytes(
        content[:-2] + content[last:-2] * MOST_SCANS + content[-2:]
    )
    with pytest.raises(DamagedFileError, match=f"more than {MOST_SCANS} scans"):
        read_picture(tmp_path / "scans.jpg")
    sparse = tmp_path / "sparse.webp"
    with open(sparse, "wb") as written:
        written.truncate(2**28)
    monkeypatch.setenv("WORLDSIM_MEMORY_LIMIT_GB", "0.1")
    with pytest.raises(OutOfMemoryError, match="sparse.webp"):
        read_picture(sparse)
