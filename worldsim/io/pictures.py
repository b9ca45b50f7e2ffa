"""Pictures for people: contact sheets, coloured depth, panels side by side; NumPy uint8 arrays."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps, PngImagePlugin

from worldsim.errors import DamagedFileError, InvalidInputError
from worldsim.runtime.files import as_path, replacing, require_regular
from worldsim.runtime.limits import require_memory_for
from worldsim.runtime.picture_formats import PICTURE_FORMATS
from worldsim.runtime.types import Array

BACKGROUND = (24, 24, 28)
INK = (235, 235, 235)
GAP = 4
LETTERS = 21
"""Size of captions: contact sheets are wide, and shown smaller than they are."""
DEPTH_COLOURS = np.array(
    [(255, 244, 200), (250, 170, 80), (205, 70, 85), (105, 35, 110), (25, 15, 60), (0, 0, 0)],
    np.float64,
)
"""Near to infinitely far."""
LARGEST_PICTURE = 2**28
"""Bytes of the largest picture file that is read."""
JPEG_SCAN, MOST_SCANS = b"\xff\xda", 64
"""What a scan of a JPEG file begins with, and most scans that are decoded; encoders make about
ten."""
MOST_PIXELS = 2**26
"""Largest picture that is read: 8192x8192."""
DEPTH_HALF = 4.0
"""Metres that get the middle of the scale."""


def enlarge(picture: Array, scale: int) -> Array:
    """Enlarge (h, w, 3) to (h * scale, w * scale, 3) without interpolation.

    Interpolation would hide what a frame really holds.
    """
    return picture.repeat(scale, 0).repeat(scale, 1)


def depth_picture(depth: Array) -> Array:
    """Colour a depth map: near is bright, infinity is black.

    depth: (h, w) metres, ``inf`` allowed.

    Returns (h, w, 3) uint8.
    """
    place = (1.0 - DEPTH_HALF / (DEPTH_HALF + np.asarray(depth, np.float64))) * (
        len(DEPTH_COLOURS) - 1
    )
    place = np.where(np.isfinite(depth), place, len(DEPTH_COLOURS) - 1)
    known = np.arange(len(DEPTH_COLOURS))
    return (
        np.stack([np.interp(place, known, DEPTH_COLOURS[:, c]) for c in range(3)], -1)
        .round()
        .astype(np.uint8)
    )


def holes_marked(rgb: Array, mask: Array) -> Array:
    """Draw a grey checkerboard over the holes of a memory view.

    rgb: (h, w, 3).
    mask: (h, w) bool, True where the memory covers the pixel.
    """
    height, width = mask.shape
    check = (np.add.outer(np.arange(height) // 2, np.arange(width) // 2) % 2) * 24 + 64
    return np.where(mask[..., None], rgb, check[..., None].astype(np.uint8))


def contact_sheet(
    rows: Mapping[str, Sequence[Array | None]],
    columns: Sequence[str],
    scale: int = 3,
    title: Sequence[str] = (),
) -> Array:
    """Arrange rows of pictures (h, w, 3) under column captions, with row names on the left.

    None leaves a place empty. Pictures are enlarged ``scale`` times, and small ones as often as
    their captions need. Captions may have several lines.
    """
    pictures = [p for row in rows.values() for p in row if p is not None]
    if not pictures or any(len(row) != len(columns) for row in rows.values()):
        raise InvalidInputError(
            f"a contact sheet needs {len(columns)} pictures a row, got "
            f"{[len(r) for r in rows.values()]}"
        )
    font = _font(LETTERS)
    lines = [text for caption in columns for text in caption.split("\n")]
    scale = max(
        scale, -(-round(max(font.getlength(text) for text in lines)) // pictures[0].shape[1])
    )
    height, width = (n * scale for n in pictures[0].shape[:2])
    left = max(round(font.getlength(text)) for name in rows for text in name.split("\n")) + 3 * GAP
    line = LETTERS + 6
    captions = line * max(caption.count("\n") + 1 for caption in columns)
    head = line * len(title) + captions + 2 * GAP
    size = (left + len(columns) * (width + GAP), head + len(rows) * (height + GAP))
    # Long title lines must fit however few columns there are.
    widest = max((round(font.getlength(text)) + 4 * GAP for text in title), default=0)
    sheet = Image.new("RGB", (max(size[0], widest), size[1]), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for i, text in enumerate(title):
        draw.text((2 * GAP, GAP + line * i), text, INK, font)
    for i, caption in enumerate(columns):
        for j, text in enumerate(caption.split("\n")):
            _centre(
                draw, text, left + i * (width + GAP), head - captions - GAP + line * j, width, font
            )
    for j, (name, row) in enumerate(rows.items()):
        top = head + j * (height + GAP)
        draw.multiline_text(
            (GAP, top + height // 2 - line // 2 * len(name.split("\n"))), name, INK, font
        )
        for i, picture in enumerate(row):
            if picture is not None:
                sheet.paste(
                    Image.fromarray(enlarge(picture, scale)), (left + i * (width + GAP), top)
                )
    return np.asarray(sheet)


def panels(pictures: Mapping[str, Array], scale: int = 4, caption: str = "") -> Array:
    """Arrange pictures (h, w, 3) side by side, each under its name, with a caption below.

    Width and height are even, as video codecs need them.
    """
    first = next(iter(pictures.values()))
    height, width = (n * scale for n in first.shape[:2])
    font = _font(15)
    total = (len(pictures) * (width + GAP) + GAP, height + 52)
    image = Image.new("RGB", (total[0] + total[0] % 2, total[1] + total[1] % 2), BACKGROUND)
    draw = ImageDraw.Draw(image)
    for i, (name, picture) in enumerate(pictures.items()):
        x = GAP + i * (width + GAP)
        _centre(draw, name, x, 3, width, font)
        image.paste(Image.fromarray(enlarge(picture, scale)), (x, 25))
    draw.text((2 * GAP, height + 29), caption, INK, font)
    return np.asarray(image)


def save_picture(picture: Array, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a picture losslessly and atomically: WebP if ``path`` ends in ``.webp``, else PNG.

    picture: (h, w, 3) uint8, or (h, w) uint16 for PNG.
    metadata: texts by name, for PNG.
    """
    path = as_path(path)
    grey, colours = (
        isinstance(picture, np.ndarray) and picture.dtype == kind and picture.ndim == axes
        for kind, axes in ((np.uint16, 2), (np.uint8, 3))
    )
    if not (grey or (colours and picture.shape[2] == 3)) or 0 in picture.shape:
        found = f"{getattr(picture, 'dtype', type(picture).__name__)} {np.shape(picture)}"
        raise InvalidInputError(f"a picture is (h, w, 3) uint8 or (h, w) uint16, got {found}")
    with replacing(path) as temporary:
        if path.suffix == ".webp":
            Image.fromarray(picture).save(
                temporary, format="WEBP", lossless=True, quality=100, method=6
            )
        else:
            told = PngImagePlugin.PngInfo()
            for name, text in (metadata or {}).items():
                told.add_itxt(name, text)
            Image.fromarray(picture).save(temporary, format="PNG", optimize=True, pnginfo=told)


def read_picture(
    path: str | os.PathLike[str],
    mode: str | None = None,
    formats: Sequence[str] = PICTURE_FORMATS,
    upright: bool = False,
) -> Array:
    """Read a picture file as an array.

    Colours are (h, w, 3) uint8, grey is (h, w) uint8 or uint16.

    mode: Pillow's mode to convert to, such as ``RGB``.
    formats: Pillow's names of the accepted formats. Others are never tried, since some (EPS) start
        other programs.
    upright: apply the orientation that a camera stored in the picture (EXIF).

    Raises NotFoundError, or DamagedFileError for a file that is no such picture or has more than
    :data:`MOST_PIXELS` pixels.
    """
    path = require_regular(path, LARGEST_PICTURE)
    require_memory_for(2 * path.stat().st_size, f"the picture {path}")
    if not path.stat().st_size:
        raise DamagedFileError(f"{path} is empty (0 bytes): save or copy the picture again")
    try:
        with warnings.catch_warnings():
            # The limit below is told as an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path, formats=list(formats))
        with opened as image:
            if image.width * image.height > MOST_PIXELS:
                raise DamagedFileError(
                    f"{path} has {image.width}x{image.height} pixels, and at most "
                    f"{MOST_PIXELS:,} are read: save it smaller"
                )
            if image.format == "JPEG" and path.read_bytes().count(JPEG_SCAN) > MOST_SCANS:
                # Each of them is decoded at the size of the whole picture.
                raise DamagedFileError(
                    f"{path} has more than {MOST_SCANS} scans, encoders make about ten: save the "
                    f"picture anew"
                )
            # PNG's checksums, which decoding does not look at; the file has to be opened again
            # afterwards.
            image.verify()
        with Image.open(path, formats=list(formats)) as image:
            turned = ImageOps.exif_transpose(image) if upright else image
            return np.array(turned if mode is None else turned.convert(mode))
    except DamagedFileError:
        raise
    except Image.DecompressionBombError as error:
        raise DamagedFileError(
            f"{path} is too large ({error}) At most {MOST_PIXELS:,} pixels are read: save it "
            "smaller"
        ) from error
    except (
        OSError,
        ValueError,
        SyntaxError,
        MemoryError,
        OverflowError,
    ) as error:
        raise DamagedFileError(
            f"{path} is not a readable picture ({error}): give {', '.join(formats)}"
        ) from error


Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _centre(draw: ImageDraw.ImageDraw, text: str, x: int, y: int, width: int, font: Font) -> None:
    draw.text((x + max(0, (width - round(font.getlength(text))) // 2), y), text, INK, font)


def _font(size: int) -> Font:
    """Return Pillow's own scalable font, which needs no font file of the system."""
    return ImageFont.load_default(size)
