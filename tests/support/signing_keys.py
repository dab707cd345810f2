"""Pairs of keys for tests."""

from collections.abc import Sequence

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from daemon.publishing.signatures import Role
from daemon.publishing.trust.keys import KeySigner, generate
from daemon.publishing.trust.policy import TrustedKey


class Key:
    """A signer and its public key."""

    def __init__(self) -> None:
        private, self.public = generate()
        key = serialization.load_pem_private_key(private.encode(), None)
        assert isinstance(key, Ed25519PrivateKey)
        self.signer = KeySigner(key)

    def trusted(self, *roles: Role, scopes: Sequence[str] = ("*",)) -> TrustedKey:
        return TrustedKey(
            keyid=self.public.keyid,
            public=self.public.pem,
            roles=roles or ("publish", "pointer"),
            scopes=tuple(scopes),
        )
