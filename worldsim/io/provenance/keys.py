"""The user's Ed25519 key, made at first use."""

from __future__ import annotations

import base64
import binascii
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError, StorageError
from worldsim.runtime.files import read_bytes, storage_errors

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

KEY_VARIABLE = "WORLDSIM_KEY"
LARGEST_KEY = 16_384


def key_path() -> Path:
    """Return where the private key is: ``WORLDSIM_KEY``, or in the user's config folder."""
    if named := os.environ.get(KEY_VARIABLE):
        return Path(named)
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path("~/.config").expanduser())
    return Path(home) / "worldsim" / "ed25519.pem"


def private_key(path: Path | None = None) -> Ed25519PrivateKey:
    """Return the private key at ``path``; makes it, readable by its owner alone, if it is missing.

    Raises DamagedFileError for a file that is no such key, StorageError if it cannot be written or
    if others can read it.
    """
    path = path or key_path()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        content = read_bytes(path, LARGEST_KEY)
    except NotFoundError:
        if path.is_dir():
            raise
        return _make(path)
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise StorageError(f"the key {path} can be read by others: chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as error:
        raise DamagedFileError(
            f"{path} is no unencrypted private key in PEM ({error}): remove it for a new one, or "
            f"name another with {KEY_VARIABLE}"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise DamagedFileError(f"{path} is no Ed25519 key: name another with {KEY_VARIABLE}")
    return key


def _make(path: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    content = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        own = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        # The mode is that of the file from its first byte on.
        handle = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            try:
                # Of two processes at first use, one wins and both take its key.
                os.link(own, path)
            except FileExistsError:
                return private_key(path)
        finally:
            own.unlink()
    return key


def public_text(key: Ed25519PrivateKey) -> str:
    """Return the public key as 44 letters of base64."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def public_key(text: str) -> Ed25519PublicKey:
    """Return a public key from base64. Raises InvalidInputError."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
    except (ValueError, TypeError, binascii.Error):
        raise InvalidInputError(
            f"{str(text)[:60]!r} is no Ed25519 public key: give its 32 bytes as base64"
        ) from None
