"""C2PA manifests (Content Credentials) in PNG, JPEG, WebP, GIF and MP4, with a user's certificate.

Needs the extra ``provenance``. The specification: https://c2pa.org/specifications.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from worldsim import __version__
from worldsim.errors import DamagedFileError, InvalidInputError, StorageError
from worldsim.io.provenance.origin import Origin
from worldsim.runtime.extras import missing
from worldsim.runtime.files import read_bytes, replacing, require_regular
from worldsim.runtime.types import JsonObject

CERTIFICATE_VARIABLE, KEY_VARIABLE = "WORLDSIM_C2PA_CERTIFICATE", "WORLDSIM_C2PA_KEY"
ALGORITHM_VARIABLE = "WORLDSIM_C2PA_ALGORITHM"
ALGORITHMS = ("es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519")
MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
}
LARGEST_FILE = 2**31
LARGEST_PEM = 2**20
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


@dataclass(frozen=True)
class Certificate:
    """A user's certificate chain and private key, both PEM files, and the signing algorithm."""

    chain: Path
    key: Path
    algorithm: str = "es256"


def certificate() -> Certificate | None:
    """Return the certificate that the environment variables name, None if they name none."""
    chain, key = os.environ.get(CERTIFICATE_VARIABLE), os.environ.get(KEY_VARIABLE)
    if not chain and not key:
        return None
    if not chain or not key:
        raise InvalidInputError(
            f"C2PA needs both {CERTIFICATE_VARIABLE} and {KEY_VARIABLE}: set the other one, too"
        )
    algorithm = os.environ.get(ALGORITHM_VARIABLE) or "es256"
    if algorithm not in ALGORITHMS:
        raise InvalidInputError(
            f"{ALGORITHM_VARIABLE} = {algorithm!r}: give one of {', '.join(ALGORITHMS)}"
        )
    return Certificate(Path(chain), Path(key), algorithm)


def import_c2pa() -> ModuleType:
    """Import and return c2pa. Raises MissingDependencyError."""
    try:
        import c2pa
    except (ImportError, OSError) as error:
        raise missing("C2PA needs c2pa-python", "provenance", error) from error
    return c2pa


def sign(path: Path, origin: Origin, own: Certificate) -> None:
    """Write a manifest into ``path``, which is replaced atomically.

    Raises InvalidInputError for other kinds of files and for a refused certificate,
    MissingDependencyError, NotFoundError.
    """
    c2pa = import_c2pa()
    kind = _media_type(path)
    chain = read_bytes(own.chain, LARGEST_PEM).decode("utf-8", "replace")
    key = read_bytes(own.key, LARGEST_PEM).decode("utf-8", "replace")
    manifest = {
        "claim_generator_info": [{"name": "worldsim", "version": __version__}],
        "format": kind,
        "title": path.name,
        "assertions": [
            {
                "label": "c2pa.actions",
                "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": GENERATED}]},
            },
            {"label": "org.worldsim.origin", "data": origin.claim()},
        ],
    }
    try:
        info = c2pa.C2paSignerInfo(own.algorithm, chain.encode(), key.encode(), None)
        with (
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(json.dumps(manifest)) as builder,
            replacing(path) as temporary,
            open(path, "rb") as source,
            open(temporary, "w+b") as target,
        ):
            builder.sign(signer, kind, source, target)
    except StorageError:
        raise
    except (c2pa.C2paError, ValueError) as error:
        raise InvalidInputError(
            f"{path} cannot be signed with the certificate {own.chain} ({error}): check that the "
            f"chain begins with the signing certificate and that the key is of kind {own.algorithm}"
        ) from None


def read(path: Path) -> JsonObject | None:
    """Return a file's C2PA manifest store with its validation; None without one.

    ``validation_state`` is ``Valid`` or ``Trusted`` for an unchanged file. Raises DamagedFileError
    for a manifest that cannot be parsed.
    """
    c2pa = import_c2pa()
    kind = _media_type(path)
    require_regular(path, LARGEST_FILE)
    try:
        with open(path, "rb") as source, c2pa.Reader(kind, source) as reader:
            found: JsonObject = json.loads(reader.json())
            return found
    except c2pa.C2paError as error:
        if "ManifestNotFound" in type(error).__name__ or "no JUMBF data" in str(error):
            return None
        raise DamagedFileError(f"the C2PA manifest of {path} cannot be read: {error}") from None
    except ValueError as error:
        raise DamagedFileError(f"the C2PA manifest of {path} cannot be read: {error}") from None


def _media_type(path: Path) -> str:
    kind = MEDIA_TYPES.get(path.suffix.lower())
    if kind is None:
        raise InvalidInputError(
            f"{path.name} cannot hold a C2PA manifest: {', '.join(MEDIA_TYPES)} can"
        )
    return kind
