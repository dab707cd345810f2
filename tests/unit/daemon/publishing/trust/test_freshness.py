"""What a freshness.json says, and when it is written anew. Who may say it: test_trust."""

import json
from datetime import timedelta
from typing import Any

import pytest

from daemon.publishing.errors import SequenceWentBack, VerificationFailed
from daemon.publishing.trust.freshness import Freshness
from renderers.model import Scope
from tests.builders_publishing import SCOPE
from tests.builders_runtime import InlineRuntime

NOW = InlineRuntime().now()
LIFETIME = timedelta(minutes=10)


def said(*, minutes: float = 5, sequence: int = 3, body: bytes = b"pointer") -> Freshness:
    return Freshness.of(SCOPE, sequence, body, NOW + timedelta(minutes=minutes))


def document() -> dict[str, Any]:
    return json.loads(said().signed_part())


def test_what_is_signed_is_read_back() -> None:
    assert Freshness.parse(document(), SCOPE) == said()


@pytest.mark.parametrize(
    ("signed", "words"),
    [
        (None, "cannot be read: the document: must be a valid dictionary"),
        ([], "cannot be read: the document: must be a valid dictionary"),
        (
            {each: value for each, value in document().items() if each != "expires"},
            "expires: Field required",
        ),
        (document() | {"sequence": "3"}, "sequence: must be a valid integer"),
        (document() | {"sequence": True}, "sequence: must be a valid integer"),
        (document() | {"sequence": 2**53}, "sequence: must be at most"),
        (
            document() | {"pointer_sha256": "0" * 63},
            "pointer_sha256: must be 64 lower-case hex digits",
        ),
        (document() | {"expires": "soon"}, "expires: must be a time with its offset"),
        (
            document() | {"expires": "2026-11-23T10:00:00"},
            "expires: must be a time with its offset",
        ),
        (
            document() | {"expires": "0001-01-01T00:00:00+23:59"},
            "expires: must be a time with its offset",
        ),
        (document() | {"scope": "another/scope"}, "belongs to another/scope"),
    ],
)
def test_what_is_none_is_refused(signed: object, words: str) -> None:
    with pytest.raises(VerificationFailed, match=words):
        Freshness.parse(signed, SCOPE)


def test_one_of_another_scope_does_not_fit_here() -> None:
    with pytest.raises(VerificationFailed, match=f"belongs to {SCOPE}"):
        Freshness.parse(document(), Scope.parse("another/scope"))


def test_a_pointer_is_fresh_that_is_the_one_named_or_newer() -> None:
    said().check(b"pointer", 3, NOW)
    said().check(b"a newer one", 4, NOW)
    with pytest.raises(VerificationFailed, match=r"does not match the digest in freshness\.json"):
        said().check(b"another", 3, NOW)
    with pytest.raises(SequenceWentBack, match=r"has sequence 2, .* had 3"):
        said().check(b"older", 2, NOW)


def test_what_has_expired_vouches_for_nothing_and_still_tells_of_an_older_pointer() -> None:
    said(minutes=1).check(b"pointer", 3, NOW + timedelta(seconds=59))
    with pytest.raises(VerificationFailed, match="expired at"):
        said(minutes=1).check(b"pointer", 3, NOW + timedelta(seconds=60))
    with pytest.raises(SequenceWentBack):
        said(minutes=-60).check_not_older(2)


def test_it_is_due_after_half_of_its_time_or_with_another_pointer() -> None:
    assert not said(minutes=5).is_due(b"pointer", NOW, LIFETIME)
    assert said(minutes=4.9).is_due(b"pointer", NOW, LIFETIME)
    assert said(minutes=9).is_due(b"another", NOW, LIFETIME)
