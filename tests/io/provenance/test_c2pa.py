"""C2PA manifests with a certificate chain made here."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

from worldsim.errors import (
    DamagedFileError,
    InvalidInputError,
    MissingDependencyError,
    NotFoundError,
)
from worldsim.io.provenance import c2pa
from worldsim.io.provenance.origin import Origin
from worldsim.io.provenance.publish import publish_film, publish_picture
from worldsim.io.provenance.sidecar import verify
from worldsim.io.video import write_video

ORIGIN = Origin("room", "ab" * 32, 7)
PICTURE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)


def make_chain(folder: Path) -> c2pa.Certificate:
    """Write a certificate for signing, issued by a root made here, and its key."""
    root_key, own_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    begin = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
    end = datetime.datetime(2045, 1, 1, tzinfo=datetime.UTC)

    def name(text: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test studio"),
                x509.NameAttribute(NameOID.COMMON_NAME, text),
            ]
        )

    def build(subject: str, key: ec.EllipticCurvePrivateKey, root: bool) -> x509.Certificate:
        made = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("Test root"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=root, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(not root, False, False, False, False, root, root, False, False),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), False
            )
        )
        if not root:
            usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            made = made.add_extension(usage, critical=False)
        return made.sign(root_key, hashes.SHA256())

    own, root = build("Test signer", own_key, False), build("Test root", root_key, True)
    pem = serialization.Encoding.PEM
    chain, key = folder / "chain.pem", folder / "signer.pem"
    chain.write_bytes(own.public_bytes(pem) + root.public_bytes(pem))
    key.write_bytes(
        own_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return c2pa.Certificate(chain, key)


@pytest.fixture
def certificate(tmp_path: Path) -> c2pa.Certificate:
    return make_chain(tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".mp4"])
def test_every_kind_is_signed(tmp_path: Path, suffix: str, certificate: c2pa.Certificate) -> None:
    path = tmp_path / f"file{suffix}"
    if suffix == ".mp4":
        write_video([PICTURE] * 4, 8, path)
    else:
        Image.fromarray(PICTURE).save(path)
    assert c2pa.read(path) is None
    c2pa.sign(path, ORIGIN, certificate)
    found = c2pa.read(path)
    assert found is not None and found["validation_state"] == "Valid"
    active = found["manifests"][found["active_manifest"]]
    assert active["signature_info"]["issuer"] == "Test studio"
    told = {one["label"]: one["data"] for one in active["assertions"]}
    assert told["org.worldsim.origin"]["world"] == "room"
    content = bytearray(path.read_bytes())
    content[-40] ^= 255
    path.write_bytes(content)
    try:
        found = c2pa.read(path)
    except DamagedFileError:
        return
    assert found is None or found["validation_state"] == "Invalid"


def test_published_files_hold_both(
    tmp_path: Path, certificate: c2pa.Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(c2pa.CERTIFICATE_VARIABLE, str(certificate.chain))
    monkeypatch.setenv(c2pa.KEY_VARIABLE, str(certificate.key))
    picture, film = tmp_path / "a.png", tmp_path / "b.mp4"
    publish_picture(PICTURE, picture, ORIGIN)
    publish_film([PICTURE] * 4, 8, film, ORIGIN)
    for path in (picture, film):
        found = c2pa.read(path)
        assert found is not None and found["validation_state"] == "Valid"
        assert verify(path).state == "valid"


def test_bad_settings(
    tmp_path: Path, certificate: c2pa.Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PICTURE).save(path)
    before = path.read_bytes()
    with pytest.raises(InvalidInputError, match="cannot be signed"):
        c2pa.sign(path, ORIGIN, c2pa.Certificate(certificate.key, certificate.chain))
    with pytest.raises(NotFoundError):
        c2pa.sign(path, ORIGIN, c2pa.Certificate(tmp_path / "none", certificate.key))
    assert path.read_bytes() == before
    with pytest.raises(InvalidInputError, match="cannot hold"):
        c2pa.sign(tmp_path / "a.ply", ORIGIN, certificate)
    monkeypatch.setenv(c2pa.CERTIFICATE_VARIABLE, "chain.pem")
    with pytest.raises(InvalidInputError, match=c2pa.KEY_VARIABLE):
        c2pa.certificate()
    monkeypatch.setenv(c2pa.KEY_VARIABLE, "key.pem")
    monkeypatch.setenv(c2pa.ALGORITHM_VARIABLE, "md5")
    with pytest.raises(InvalidInputError, match="es256"):
        c2pa.certificate()


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(MissingDependencyError, match=r"\[provenance\]"):
        c2pa.import_c2pa()
