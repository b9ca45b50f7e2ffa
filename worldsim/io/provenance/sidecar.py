"""Signed sidecars: ``FILE.provenance.json`` beside an exported file."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from worldsim.errors import DamagedFileError, WorldsimError
from worldsim.io.provenance.keys import private_key, public_key, public_text
from worldsim.io.provenance.origin import Origin
from worldsim.runtime.files import is_file, require_regular, sha256_of
from worldsim.runtime.json_config import read_json, write_json
from worldsim.runtime.types import JsonObject

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SUFFIX = ".provenance.json"
FORMAT, VERSION = "worldsim-provenance", 1
LARGEST = 65_536
"""Bytes of the largest sidecar that is read."""


def sidecar_of(path: Path) -> Path:
    """Return the path of a file's sidecar."""
    return path.with_name(path.name + SUFFIX)


def make_sidecar(
    sha256: str, size: int, origin: Origin, mark: int | None, key: Ed25519PrivateKey
) -> JsonObject:
    """Return a signed sidecar.

    sha256, size: of the file's content, the latter in bytes.
    mark: the 32 bits of the invisible mark; None for files without.
    """
    claim = {
        **origin.claim(),
        "file_sha256": sha256,
        "file_bytes": size,
        "mark": None if mark is None else f"{mark:08x}",
    }
    return {
        "format": FORMAT,
        "version": VERSION,
        "claim": claim,
        "public_key": public_text(key),
        "signature": base64.b64encode(key.sign(_message(claim))).decode(),
    }


def write_sidecar(path: Path, origin: Origin, mark: int | None = None) -> Path:
    """Sign ``path`` with the user's key and write its sidecar; returns the sidecar's path."""
    key = private_key()
    made = make_sidecar(sha256_of(path), path.stat().st_size, origin, mark, key)
    write_json(sidecar_of(path), made)
    return sidecar_of(path)


@dataclass(frozen=True)
class Verdict:
    """What a sidecar is worth.

    state: ``valid``, ``missing``, ``damaged`` (no sidecar at all), ``forged`` (the signature is not
        over this claim), ``changed`` (the file is not the one that was signed) or ``other key``
        (signed, but not by the expected key).
    claim: what it states; only of a valid one is any of it proven.
    public_key: who signed, base64.
    explanation: one sentence.
    """

    state: str
    claim: JsonObject
    public_key: str
    explanation: str


def verify(path: Path, expected_key: str | None = None) -> Verdict:
    """Check a file's sidecar.

    expected_key: public key that must have signed, base64. Without one, a valid signature says that
        whoever holds the sidecar's own key signed this file.
    """
    require_regular(path)
    if expected_key is not None:
        public_key(expected_key)
    place = sidecar_of(path)
    if not is_file(place):
        return Verdict("missing", {}, "", f"There is no sidecar {place.name} beside the file.")
    try:
        claim, key, signature = _parse(place)
    except WorldsimError as error:
        return Verdict("damaged", {}, "", f"The sidecar cannot be read: {error}")
    from cryptography.exceptions import InvalidSignature

    try:
        public_key(key).verify(signature, _message(claim))
    except InvalidSignature:
        return Verdict(
            "forged", claim, key, "The sidecar's text is not what its key signed: it was changed."
        )
    except WorldsimError as error:
        return Verdict("damaged", {}, "", f"The sidecar's key cannot be read: {error}")
    if expected_key is not None and expected_key != key:
        return Verdict("other key", claim, key, "The sidecar was signed by another key.")
    if claim.get("file_bytes") != path.stat().st_size or claim.get("file_sha256") != sha256_of(
        path
    ):
        return Verdict(
            "changed", claim, key, "The file is not the one that was signed: it was changed."
        )
    who = "the given key" if expected_key is not None else "the key that the sidecar names"
    return Verdict("valid", claim, key, f"The file is unchanged and was signed by {who}.")


def _parse(place: Path) -> tuple[JsonObject, str, bytes]:
    require_regular(place, LARGEST)
    found = read_json(place)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DamagedFileError(f"{place} is no sidecar of worldsim: export the file again")
    if found.get("version") != VERSION:
        raise DamagedFileError(
            f"{place} has version {str(found.get('version'))[:20]!r}, version {VERSION} is known: "
            "update worldsim"
        )
    claim, key, signature = (found.get(name) for name in ("claim", "public_key", "signature"))
    if not isinstance(claim, dict) or not isinstance(key, str) or not isinstance(signature, str):
        raise DamagedFileError(
            f"{place} lacks its claim, public_key or signature: export the file again"
        )
    try:
        return claim, key, base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        raise DamagedFileError(f"{place}: its signature is no base64") from None


def _message(claim: JsonObject) -> bytes:
    text = json.dumps(claim, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f"{FORMAT} {VERSION}\n{text}".encode()
