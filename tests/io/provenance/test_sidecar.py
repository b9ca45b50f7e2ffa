"""Sidecars: what is signed, and what every change of it is called."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError, StorageError
from worldsim.io.provenance.keys import KEY_VARIABLE, private_key, public_key, public_text
from worldsim.io.provenance.origin import Origin, hash_actions, payload_of, world_of
from worldsim.io.provenance.sidecar import SUFFIX, sidecar_of, verify, write_sidecar

ORIGIN = Origin("room", "ab" * 32, 7, hash_actions([1, 2, 3]))


@pytest.fixture
def signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "own" / "key.pem"))
    file = tmp_path / "points.ply"
    file.write_bytes(b"points")
    write_sidecar(file, ORIGIN, 0x01020304)
    return file


def change(file: Path, **values: object) -> None:
    place = sidecar_of(file)
    told = json.loads(place.read_text())
    place.write_text(json.dumps({**told, **values}))


def test_a_signed_file(signed: Path) -> None:
    found = verify(signed)
    assert found.state == "valid" and found.public_key == public_text(private_key())
    assert found.claim["generated"] is True and found.claim["mark"] == "01020304"
    assert (found.claim["world"], found.claim["seed"]) == ("room", 7)
    assert found.claim["actions_sha256"] == hash_actions([1, 2, 3]) != hash_actions([1, 2, 4])
    assert verify(signed, found.public_key).state == "valid"


def test_the_key_is_its_owners_alone(signed: Path) -> None:
    place = Path(os.environ[KEY_VARIABLE])
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert public_text(private_key()) == public_text(private_key())
    place.chmod(0o644)
    with pytest.raises(StorageError, match="chmod 600"):
        private_key()


def test_equal_files_have_equal_sidecars(signed: Path) -> None:
    first = sidecar_of(signed).read_bytes()
    write_sidecar(signed, ORIGIN, 0x01020304)
    assert sidecar_of(signed).read_bytes() == first


def test_a_changed_file(signed: Path) -> None:
    signed.write_bytes(b"pointz")
    assert verify(signed).state == "changed"


@pytest.mark.parametrize("field", ["world", "seed", "generated", "file_sha256", "mark"])
def test_a_changed_claim(signed: Path, field: str) -> None:
    claim = json.loads(sidecar_of(signed).read_text())["claim"]
    change(signed, claim={**claim, field: "other"})
    assert verify(signed).state == "forged"


def test_another_key(signed: Path) -> None:
    other = public_text(Ed25519PrivateKey.generate())
    assert verify(signed, other).state == "other key"
    change(signed, public_key=other)
    assert verify(signed).state == "forged"
    with pytest.raises(InvalidInputError, match="32 bytes as base64"):
        verify(signed, "no key")


def test_a_missing_sidecar(signed: Path) -> None:
    sidecar_of(signed).unlink()
    assert verify(signed).state == "missing"
    with pytest.raises(NotFoundError):
        verify(signed.with_name("nothing.ply"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no json",
        b"[]",
        b'{"format": "worldsim-provenance"}',
        b'{"format": "worldsim-provenance", "version": 1, "claim": []}',
        b'{"format": "worldsim-provenance", "version": 99}',
        b"[" * 50_000,
        b" " * 100_000,
    ],
)
def test_damaged_sidecars(signed: Path, content: bytes) -> None:
    sidecar_of(signed).write_bytes(content)
    assert verify(signed).state == "damaged"


def test_damaged_parts(signed: Path) -> None:
    change(signed, signature="?")
    assert verify(signed).state == "damaged"
    change(signed, signature="AAAA")
    assert verify(signed).state == "forged"
    change(signed, public_key="AAAA")
    assert verify(signed).state == "damaged"


def test_damaged_keys(tmp_path: Path) -> None:
    place = tmp_path / "key.pem"
    place.write_bytes(b"no key")
    place.chmod(0o600)
    with pytest.raises(DamagedFileError, match="no unencrypted private key"):
        private_key(place)
    with pytest.raises(InvalidInputError):
        public_key("AAAA")


def test_the_payload_names_the_world() -> None:
    assert world_of(payload_of("ab" * 32)) == "ababab"
    assert world_of(payload_of("ab" * 32) ^ 1) is None
    assert payload_of("no hash") == payload_of("no hash") != payload_of("another")
    assert SUFFIX == ".provenance.json"
