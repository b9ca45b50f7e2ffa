"""Videos: written as H.264 in MP4, read from common containers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from worldsim.errors import DamagedFileError, InvalidInputError
from worldsim.runtime.arguments import number
from worldsim.runtime.files import Name, replacing, require_regular
from worldsim.runtime.types import Array

MOST_FPS = 1000.0
CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
}
"""By suffix, the container that a file is read as. It is never guessed from the content: a playlist
under the name of a video would make the decoder open other files."""


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


def read_video(path: Name, size: tuple[int, int] | None = None) -> Iterator[tuple[float, Array]]:
    """Yield the frames of a video's first picture track, with their times in seconds.

    size: height and width in pixels that frames are resized to, by area averaging; their own if not
        given.

    Frames are (h, w, 3) uint8, RGB, in the order in which they are shown. Nothing but this one
    regular file is opened. Raises NotFoundError, InvalidInputError (an unknown suffix, or frames
    that change their size) or DamagedFileError.
    """
    import av
    import cv2

    file = require_regular(path)
    container = CONTAINERS.get(file.suffix.lower())
    if container is None:
        raise InvalidInputError(
            f"{file} is no video that can be read: {', '.join(CONTAINERS)} can, convert it to one"
        )
    first: tuple[int, ...] | None = None
    try:
        with open(file, "rb") as source, av.open(source, "r", format=container) as opened:
            if not opened.streams.video:
                raise DamagedFileError(f"{file} has no picture track: record it again")
            for index, frame in enumerate(opened.decode(video=0)):
                image: Array = frame.to_ndarray(format="rgb24")
                first = first or image.shape
                if image.shape != first:
                    raise InvalidInputError(
                        f"{file}: frame {index} is {image.shape[0]}x{image.shape[1]} pixels, and "
                        f"the first one {first[0]}x{first[1]}: cut the video where its size changes"
                    )
                if size is not None and image.shape[:2] != size:
                    image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
                yield float(frame.time or 0.0), image
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, (DamagedFileError, InvalidInputError)):
            raise
        raise DamagedFileError(
            f"{file} cannot be decoded ({error}): copy it again, or convert it to H.264"
        ) from None
    if first is None:
        raise DamagedFileError(f"{file} has no frames: record it again")


def frame_rate(path: Name) -> float | None:
    """Return the average frames per second that a video states; None if it states none."""
    import av

    file = require_regular(path)
    container = CONTAINERS.get(file.suffix.lower())
    try:
        with open(file, "rb") as source, av.open(source, "r", format=container) as opened:
            rate = opened.streams.video[0].average_rate
            return None if not rate else float(rate)
    except (av.error.FFmpegError, OSError, ValueError, IndexError):
        return None
