"""The one way by which generated files reach people: marked once, then signed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from worldsim.errors import InvalidInputError, StorageError
from worldsim.io.pictures import save_picture
from worldsim.io.provenance import c2pa
from worldsim.io.provenance.keys import private_key
from worldsim.io.provenance.mark import embed_film, embed_picture
from worldsim.io.provenance.origin import Origin
from worldsim.io.provenance.sidecar import make_sidecar, write_sidecar
from worldsim.io.video import write_video
from worldsim.runtime.progress import say
from worldsim.runtime.types import Array, JsonObject

SWITCH = "WORLDSIM_PROVENANCE"
CHOICES = ("on", "sidecar", "off")


def choice() -> str:
    """Return what :data:`SWITCH` asks for: ``on`` by default, ``sidecar`` (no mark) or ``off``."""
    chosen = os.environ.get(SWITCH) or "on"
    if chosen not in CHOICES:
        raise InvalidInputError(f"{SWITCH} = {chosen!r}: give one of {', '.join(CHOICES)}")
    return chosen


def publish_film(
    frames: Sequence[Array],
    fps: float,
    path: Path,
    origin: Origin,
    metadata: Mapping[str, str] | None = None,
    sidecar: bool = True,
) -> None:
    """Mark frames (h, w, 3) uint8, write them as MP4, and sign the file as :func:`publish` does."""
    marked = choice() == "on"
    shown = embed_film(frames, origin.payload) if marked and len(frames) else frames
    write_video(shown, fps, path, metadata)
    publish(path, origin, origin.payload if marked else None, sidecar)


def publish_picture(
    picture: Array,
    path: Path,
    origin: Origin,
    metadata: Mapping[str, str] | None = None,
    sidecar: bool = True,
) -> None:
    """Mark a picture (h, w, 3) uint8, write it as PNG or WebP, and sign the file.

    The file is signed as :func:`publish` does.
    """
    marked = choice() == "on"
    save_picture(embed_picture(picture, origin.payload) if marked else picture, path, metadata)
    publish(path, origin, origin.payload if marked else None, sidecar)


def sidecar_for(name: str, sha256: str, size: int, origin: Origin) -> JsonObject:
    """Return the sidecar of a file that a page saves; an empty object if they are switched off.

    name: of the file; pictures and films among them were marked when they were made.
    """
    if choice() == "off":
        return {}
    marked = choice() == "on" and Path(name).suffix in (".png", ".mp4")
    return make_sidecar(sha256, size, origin, origin.payload if marked else None, private_key())


def publish(path: Path, origin: Origin, mark: int | None = None, sidecar: bool = True) -> None:
    """Sign a written file: a C2PA manifest if a certificate is named, and a sidecar.

    mark: the 32 bits that the file's mark carries, None without.
    sidecar: False where the file is handed on, and its sidecar made there (:func:`sidecar_for`).

    A key that cannot be made or read costs the sidecar, with a warning, and not the file.
    """
    if choice() == "off":
        return
    own = c2pa.certificate()
    if own is not None and path.suffix.lower() in c2pa.MEDIA_TYPES:
        c2pa.sign(path, origin, own)
    if not sidecar:
        return
    try:
        write_sidecar(path, origin, mark)
    except StorageError as error:
        say(f"no sidecar for {path}: {error} (or set {SWITCH}=off)", always=True)
