"""Videos: H.264 in MP4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from worldsim.errors import InvalidInputError
from worldsim.runtime.arguments import number
from worldsim.runtime.files import replacing
from worldsim.runtime.types import Array

MOST_FPS = 1000.0


def write_video(
    frames: Sequence[Array], fps: float, path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write frames (h, w, 3) uint8, h and w even, as an H.264 video, atomically.

    metadata: texts by name. Players show those that MP4 knows, such as ``title`` and ``comment``.

    Raises InvalidInputError for invalid frames or frame rates, and StorageError if the file cannot
    be written.
    """
    import av

    rate = Fraction(number("fps", fps, 1e-2, MOST_FPS, "frames a second")).limit_denominator(1000)
    try:
        shapes = {(np.asarray(frame).dtype.name, np.shape(frame)) for frame in frames}
    except (TypeError, ValueError):
        shapes = set()
    kind, shape = next(iter(shapes), ("nothing", ()))
    if (
        len(shapes) != 1
        or kind != "uint8"
        or len(shape) != 3
        or shape[2] != 3
        or shape[0] % 2
        or shape[1] % 2
        or 0 in shape
    ):
        found = f"{len(shapes)} kinds, such as {kind} {shape}"
        raise InvalidInputError(
            f"a video needs frames (h, w, 3) uint8 of one even size, got {found}"
        )
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = shape[:2]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "18"}
        for frame in frames:
            container.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                )
            )
        container.mux(stream.encode())
