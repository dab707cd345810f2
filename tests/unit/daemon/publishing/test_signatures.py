"""What is signed, and the one accepted form of signatures."""

import pytest
from securesystemslib.dsse import Envelope

from daemon.publishing.signatures import Signature, decoded, encoding, signed_by

GOOD = Signature("k" * 64, bytes(range(64)))


@pytest.mark.parametrize("payload", [b"", b"x", bytes(range(256)), "ü 1".encode()])
def test_the_encoding_is_the_one_of_dsse(payload: bytes) -> None:
    for kind in ("application/vnd.in-toto+json", "ü"):
        assert encoding(kind, payload) == Envelope(payload, kind, {}).pae()


def test_signatures_round_trip() -> None:
    other = Signature("other", b"\x00")
    assert decoded([GOOD.document(), other.document()]) == (GOOD, other)
    assert decoded([]) == ()


@pytest.mark.parametrize(
    "documents",
    [
        None,
        {},
        ["x"],
        [{"keyid": "k"}],
        [{"keyid": 1, "sig": "AA=="}],
        [{"keyid": "k", "sig": "AA==", "more": 1}],
        [{"keyid": "k", "sig": "!"}],
        [{"keyid": "k", "sig": "A"}],
        [{"keyid": "k", "sig": "AB=="}],  # the same byte as AA== for a lenient reader
        [{"keyid": "k", "sig": "AA== "}],
        [{"keyid": "k", "sig": "AA=="}, {"keyid": "k", "sig": "AQ=="}],
        [{"keyid": str(number), "sig": "AA=="} for number in range(17)],
    ],
)
def test_any_other_form_is_refused(documents: object) -> None:
    with pytest.raises(ValueError, match=r"^(a|it|one|the) ") as refused:
        decoded(documents)

    assert str(refused.value) in {
        "the signatures are no list",
        "one key has signed twice",
        "a signature is not base64",
        "a signature is not in its one form",
        "it has 17 signatures, and may have 16",
    }


def test_as_many_signatures_as_a_document_may_have_are_read() -> None:
    assert len(decoded([{"keyid": str(number), "sig": "AA=="} for number in range(16)])) == 16


class Stamp:
    """Implements `Signer` with a signature from which the message can be read."""

    def __init__(self, keyid: str) -> None:
        self.keyid = keyid

    def sign(self, message: bytes) -> bytes:
        return self.keyid.encode() + b":" + message


def test_every_signer_signs_the_encoding_of_payload_and_kind() -> None:
    signed = signed_by((Stamp("one"), Stamp("two")), "application/x", b"payload")

    message = encoding("application/x", b"payload")
    assert signed == (Signature("one", b"one:" + message), Signature("two", b"two:" + message))
