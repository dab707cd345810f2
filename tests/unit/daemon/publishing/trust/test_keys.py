"""Key files and their signatures."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from securesystemslib.signer import Signature as TheirSignature

from daemon.publishing.errors import KeyUnusable
from daemon.publishing.signatures import Signature, signed_by
from daemon.publishing.trust.keys import PublicKey, generate, load


def key_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "signing.key"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_only_the_public_key_of_a_generated_key_verifies_its_signatures(tmp_path: Path) -> None:
    private, public = generate()
    signer = load(key_file(tmp_path, private))
    (signature,) = signed_by([signer], "kind", b"payload")
    message = b"DSSEv1 4 kind 7 payload"

    assert signature.keyid == signer.keyid == public.keyid
    assert public.verifies(signature, message)
    assert not public.verifies(signature, message + b"x")
    assert not generate()[1].verifies(signature, message)


def test_a_public_key_is_independent_of_the_layout_of_its_text() -> None:
    _, public = generate()
    assert PublicKey.parse("\n" + public.pem.replace("\n", "\r\n")) == public


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o660, 0o644])
def test_a_key_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(KeyUnusable, match="chmod 600"):
        load(key_file(tmp_path, generate()[0], mode))


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o640])
def test_a_key_that_its_owner_or_one_group_may_read_is_accepted(tmp_path: Path, mode: int) -> None:
    private, public = generate()
    assert load(key_file(tmp_path, private, mode)).keyid == public.keyid


def test_a_missing_key_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(KeyUnusable, match=r"signing\.key cannot be read"):
        load(tmp_path / "signing.key")


def pem(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, password: bytes | None = None) -> str:
    encryption = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    ).decode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no private key"),
        ("secret-but-no-key", "no private key"),
        (pem(Ed25519PrivateKey.generate(), b"passphrase"), "without a passphrase"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "not an ed25519 key"),
        (generate()[1].pem, "no private key"),
    ],
    ids=["empty", "garbage", "passphrase", "ecdsa", "public"],
)
def test_a_file_with_anything_else_is_refused_and_not_quoted(
    tmp_path: Path, text: str, expected: str
) -> None:
    with pytest.raises(KeyUnusable, match=expected) as refusal:
        load(key_file(tmp_path, text))
    assert "secret-but" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "x", generate()[0]])
def test_a_text_that_is_not_a_public_key_is_refused(text: str) -> None:
    with pytest.raises(KeyUnusable, match="public key"):
        PublicKey.parse(text)


def test_a_public_key_of_another_kind_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    text = other.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()
    with pytest.raises(KeyUnusable, match="not an ed25519"):
        PublicKey.parse(text)


def test_other_tools_accept_the_key_and_its_signatures(tmp_path: Path) -> None:
    """securesystemslib is what python-tuf and in-toto verify with."""
    private, public = generate()
    signer = load(key_file(tmp_path, private))
    other_tool = CryptoSigner(serialization.load_pem_private_key(private.encode(), None))

    assert signer.keyid == other_tool.public_key.keyid
    assert signer.sign(b"message").hex() == other_tool.sign(b"message").signature
    other_tool.public_key.verify_signature(
        TheirSignature(public.keyid, signer.sign(b"message").hex()), b"message"
    )


@pytest.mark.parametrize("sig", [b"", b"\x00" * 63, b"\x00" * 65, b"\xff" * 64])
def test_bytes_that_cannot_be_a_signature_do_not_verify(sig: bytes) -> None:
    assert not generate()[1].verifies(Signature("k", sig), b"message")
