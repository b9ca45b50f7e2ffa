"""``worldsim provenance``: where a file comes from, by its sidecar, its C2PA manifest, its mark."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
from annotated_types import Ge, Le

from worldsim.errors import MissingDependencyError, WorldsimError
from worldsim.io.pictures import read_picture
from worldsim.io.provenance import c2pa
from worldsim.io.provenance.keys import private_key, public_text
from worldsim.io.provenance.mark import (
    FILM_SIDE,
    PERIOD,
    Reading,
    read_film,
    read_picture_mark,
    score_of,
    threshold,
)
from worldsim.io.provenance.origin import payload_of, world_of
from worldsim.io.provenance.sidecar import Verdict, verify
from worldsim.io.video import CONTAINERS, read_video
from worldsim.runtime.files import require_regular, require_replaceable
from worldsim.runtime.json_config import check_ranges, write_json
from worldsim.runtime.types import Array, JsonObject

MOST_FRAMES = 64
"""Frames of a film that are read for its mark: four periods of its key."""
FRAME_PIXELS = 2**27
"""Pixels that those frames have together at most; of larger ones, fewer are read."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")


@dataclass(frozen=True)
class ProvenanceConfig:
    """Say where a file comes from: its signed sidecar, its C2PA manifest and its invisible mark."""

    file: Path
    """A picture, a film, or any other file that worldsim exported."""
    key: str | None = None
    """Public key that must have signed the sidecar: 44 letters of base64. ``own`` for this user's
    key."""
    world: str | None = None
    """Also look for the mark of this world: a shipped world's name, a folder, or the SHA-256 of its
    weights. A known mark is found where an unknown one is too weak."""
    crop: Annotated[int, Ge(0), Le(16)] = 0
    """Films of plain frames whose shorter side was 64 pixels times a whole number: also try that up
    to so many of the 64 were cut at the top and on the left."""
    json: Path | None = None
    """Also write what was found to this file."""

    def __post_init__(self) -> None:
        check_ranges(self)


def provenance(config: ProvenanceConfig) -> JsonObject:
    """Read what a file says about its origin, print it, and return it.

    Raises NotFoundError for a missing file, InvalidInputError for a key that is none.
    """
    require_regular(config.file)
    if config.json is not None:
        require_replaceable(config.json)
    key = public_text(private_key()) if config.key == "own" else config.key
    sidecar = verify(config.file, key)
    told: JsonObject = {
        "file": str(config.file),
        "sidecar": {
            "state": sidecar.state,
            "claim": sidecar.claim,
            "public_key": sidecar.public_key,
            "explanation": sidecar.explanation,
        },
        "c2pa": _manifest(config.file),
        "mark": _mark(config, sidecar),
    }
    if config.json is not None:
        write_json(config.json, told)
    print(explain(told))
    return told


def _manifest(path: Path) -> JsonObject:
    if path.suffix.lower() not in c2pa.MEDIA_TYPES:
        return {"state": "none", "explanation": f"{path.suffix or 'such'} files hold no manifest."}
    try:
        found = c2pa.read(path)
    except MissingDependencyError as error:
        return {"state": "not read", "explanation": str(error)}
    except WorldsimError as error:
        return {"state": "damaged", "explanation": str(error)}
    if found is None:
        return {"state": "missing", "explanation": "There is no C2PA manifest in the file."}
    state = str(found.get("validation_state", "unknown"))
    active = (found.get("manifests") or {}).get(found.get("active_manifest")) or {}
    issuer = (active.get("signature_info") or {}).get("issuer")
    words = {
        "Trusted": "The manifest is intact, and its certificate is on a trust list.",
        "Valid": "The manifest is intact. Its certificate is on no trust list that is known here.",
    }
    return {
        "state": state.lower(),
        "issuer": issuer,
        "title": active.get("title"),
        "explanation": words.get(state, "The file or its manifest was changed after signing."),
        "errors": [
            str(one.get("code")) for one in found.get("validation_status") or [] if one.get("code")
        ],
    }


def _mark(config: ProvenanceConfig, sidecar: Verdict) -> JsonObject:
    path = config.file
    suffix = path.suffix.lower()
    film = suffix in CONTAINERS
    if not film and suffix not in PICTURES:
        return {"state": "none", "explanation": "Only pictures and films carry marks."}
    try:
        frames = _frames(path) if film else [read_picture(path, "RGB")]
        reading = _read(frames, film, config.crop)
    except WorldsimError as error:
        return {"state": "not read", "explanation": str(error)}
    world = world_of(reading.payload)
    told: JsonObject = {"score": round(reading.score, 2), "frames": len(frames)}
    if reading.found and world is not None:
        told |= {
            "state": "found",
            "payload": f"{reading.payload:08x}",
            "world_sha256_begins": world,
            "explanation": (
                "The pixels carry a mark: generated by the world or painter whose hash begins "
                f"with {world}."
            ),
        }
        claimed = sidecar.claim.get("mark")
        if isinstance(claimed, str) and claimed != told["payload"]:
            told["explanation"] += f" The sidecar names another mark, {claimed[:8]}."
    else:
        told |= {
            "state": "missing",
            "explanation": "No mark was found: it was never made, switched off, or destroyed.",
        }
    if config.world is not None:
        payload = payload_of(_hash_of(config.world))
        score, significant = score_of(frames, payload)
        # Payloads that share some of their four bytes are alike: one that is read decides.
        significant = significant and told.get("payload") in (None, f"{payload:08x}")
        told["known"] = {
            "world": config.world,
            "payload": f"{payload:08x}",
            "score": round(score, 2),
            "threshold": round(threshold(PERIOD), 2),
            "found": significant,
        }
    return told


def _read(frames: list[Array], film: bool, crop: int) -> Reading:
    if not film:
        return read_picture_mark(frames[0])
    found = read_film(frames)
    if found.found or not crop:
        return found
    # Plain frames were enlarged a whole number of times.
    height, width = frames[0].shape[:2]
    scale = -(-min(height, width) // FILM_SIDE)
    size = round(width / scale), round(height / scale)
    small = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]
    return read_film(small, crop)


def _frames(path: Path) -> list[Array]:
    made: list[Array] = []
    for _, frame in itertools.islice(read_video(path), MOST_FRAMES):
        made.append(frame)
        if (len(made) + 1) * frame.shape[0] * frame.shape[1] > FRAME_PIXELS:
            break
    return made


def _hash_of(world: str) -> str:
    from worldsim.world import World

    if len(world) == 64 and set(world) <= set("0123456789abcdef"):
        return world
    loaded: str = World.from_pretrained(world, device="cpu").weights_id
    return loaded


def explain(told: JsonObject) -> str:
    """Return what was found in words."""
    sidecar, manifest, mark = told["sidecar"], told["c2pa"], told["mark"]
    lines = [f"Sidecar: {sidecar['state']}. {sidecar['explanation']}"]
    if sidecar["state"] == "valid":
        claim = sidecar["claim"]
        parts = [f"generated by {_plain(claim.get('world'))}"]
        parts.append(f"weights {_plain(claim.get('world_sha256'))[:12]}")
        if claim.get("seed") is not None:
            parts.append(f"seed {_plain(claim['seed'])}")
        if claim.get("actions_sha256"):
            parts.append(f"actions {_plain(claim['actions_sha256'])[:12]}")
        lines.append(f"         It says: {', '.join(parts)}.")
    if sidecar["public_key"]:
        lines.append(f"         Key: {_plain(sidecar['public_key'])}")
    lines.append(f"C2PA:    {manifest['state']}. {manifest['explanation']}")
    if manifest.get("issuer"):
        lines.append(f"         Issuer: {_plain(manifest['issuer'])}")
    lines.append(f"Mark:    {mark['state']}. {mark['explanation']}")
    if known := mark.get("known"):
        word = "found" if known["found"] else "not found"
        lines.append(
            f"         The mark of {_plain(known['world'])} was {word}: score {known['score']}, "
            f"threshold {known['threshold']} (one false alarm in a million)."
        )
    return "\n".join(lines)


def _plain(text: object) -> str:
    """Return untrusted text of a file without control characters, at most 100 letters."""
    return "".join(c if c.isprintable() else "?" for c in str(text))[:100]
