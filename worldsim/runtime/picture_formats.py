"""The picture formats that are read from files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from PIL import Image

PICTURE_FORMATS = ("PNG", "WEBP", "JPEG", "TIFF", "BMP")
"""Formats of pictures that are read from files, by Pillow's names."""


@contextlib.contextmanager
def usual_pictures() -> Iterator[None]:
    """Context in which Pillow only knows :data:`PICTURE_FORMATS`.

    For libraries that open pictures themselves.
    """
    Image.init()
    known = dict(Image.OPEN), list(Image.ID)
    for name in [name for name in Image.OPEN if name not in PICTURE_FORMATS]:
        del Image.OPEN[name]
    Image.ID[:] = [name for name in Image.ID if name in PICTURE_FORMATS]
    try:
        yield
    finally:
        Image.OPEN.update(known[0])
        Image.ID[:] = known[1]
