"""Ed25519 keys in PEM files, to sign and to verify. The only module that imports cryptography.

A signer implements `signatures.Signer`, so a key service (KMS, PKCS#11) can replace a key file.
"""

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from daemon import local_files
from daemon.publishing.errors import KeyUnusable
from daemon.publishing.signatures import Signature
from renderers.values import canonical_json

_MOST_BYTES: Final = 64 << 10
_GENERATE: Final = "`rebundle keys generate FILE` makes one, and FILE.pub beside it"


class KeySigner:
    """Implements `Signer` with a private key in memory."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.keyid = _keyid(key.public_key())
        """Identifies the public key that verifies its signatures."""

    def sign(self, message: bytes) -> bytes:
        """The signature of exactly these bytes."""
        return self._key.sign(message)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Verifies the signatures of one signer."""

    keyid: str
    pem: str

    @classmethod
    def parse(cls, pem: str) -> "PublicKey":
        """The key in a PEM text.

        Raises:
            KeyUnusable: the text is no ed25519 public key.
        """
        try:
            loaded = serialization.load_pem_public_key(pem.encode())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise KeyUnusable(
                f"this is no public key in PEM form ({error}): {_GENERATE}"
            ) from error
        if not isinstance(loaded, Ed25519PublicKey):
            raise KeyUnusable(f"the public key is not an ed25519 key: {_GENERATE}")
        return cls(_keyid(loaded), _public_pem(loaded))

    def verifies(self, signature: Signature, message: bytes) -> bool:
        """Whether the private key of this key signed exactly these bytes."""
        loaded = serialization.load_pem_public_key(self.pem.encode())
        assert isinstance(loaded, Ed25519PublicKey), "parsed as one"
        try:
            loaded.verify(signature.sig, message)
        except InvalidSignature:
            return False
        return True


def generate() -> tuple[str, PublicKey]:
    """A new private key (PEM, PKCS#8) and its public key."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private.decode(), PublicKey.parse(_public_pem(key.public_key()))


def load(path: Path) -> KeySigner:
    """The signer of a key file.

    Raises:
        KeyUnusable: the file cannot be read, it is accessible to others, or it has no ed25519
            private key.
    """
    try:
        pem = local_files.read_secret(path, _MOST_BYTES)
    except local_files.Unsafe as error:
        raise KeyUnusable(f"signing key {error}") from error
    except OSError as error:
        raise KeyUnusable(
            f"signing key {path} cannot be read: {error.strerror}; see ls -l "
            f"{shlex.quote(str(path))}, or name another one (signing.key_file)"
        ) from error
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Without the text of the parser: it may quote the key.
        raise KeyUnusable(
            f"signing key {path} is no private key in PEM form without a passphrase: {_GENERATE}"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnusable(f"signing key {path} is not an ed25519 key: {_GENERATE}")
    return KeySigner(key)


def _public_pem(key: Ed25519PublicKey) -> str:
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


def _keyid(key: Ed25519PublicKey) -> str:
    """The key id as securesystemslib, TUF and in-toto derive it: their tools then find the key."""
    public = {"public": key.public_bytes_raw().hex()}
    described = {"keytype": "ed25519", "scheme": "ed25519", "keyval": public}
    return hashlib.sha256(canonical_json(described).encode()).hexdigest()
