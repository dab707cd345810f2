"""The content of freshness.json, and when it is written again. Who may sign it: test_policy.py."""

import json
from datetime import timedelta
from typing import Any

import pytest

from daemon.publishing.errors import SequenceWentBack, VerificationFailed
from daemon.publishing.trust.freshness import Freshness
from renderers.values import Scope
from tests.builders_publishing import SCOPE
from tests.builders_runtime import InlineRuntime

NOW = InlineRuntime().now()
LIFETIME = timedelta(minutes=10)


def make_freshness(*, minutes: float = 5, sequence: int = 3, body: bytes = b"pointer") -> Freshness:
    return Freshness.of(SCOPE, sequence, body, NOW + timedelta(minutes=minutes))


def document() -> dict[str, Any]:
    return json.loads(make_freshness().signed_part())


def test_a_signed_freshness_round_trips() -> None:
    assert Freshness.parse(document(), SCOPE) == make_freshness()


@pytest.mark.parametrize(
    ("signed", "message"),
    [
        (None, "cannot be read: the document: must be a valid dictionary"),
        ([], "cannot be read: the document: must be a valid dictionary"),
        (
            {key: value for key, value in document().items() if key != "expires"},
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
def test_an_invalid_freshness_is_refused(signed: object, message: str) -> None:
    with pytest.raises(VerificationFailed, match=message):
        Freshness.parse(signed, SCOPE)


def test_a_freshness_of_another_scope_is_refused() -> None:
    with pytest.raises(VerificationFailed, match=f"belongs to {SCOPE}"):
        Freshness.parse(document(), Scope.parse("another/scope"))


def test_the_named_pointer_and_any_newer_one_are_fresh() -> None:
    make_freshness().check(b"pointer", 3, NOW)
    make_freshness().check(b"a newer one", 4, NOW)
    with pytest.raises(VerificationFailed, match=r"does not match the digest in freshness\.json"):
        make_freshness().check(b"another", 3, NOW)
    with pytest.raises(SequenceWentBack, match=r"has sequence 2, .* had 3"):
        make_freshness().check(b"older", 2, NOW)


def test_an_expired_freshness_proves_nothing_and_still_reveals_an_older_pointer() -> None:
    make_freshness(minutes=1).check(b"pointer", 3, NOW + timedelta(seconds=59))
    with pytest.raises(VerificationFailed, match="expired at"):
        make_freshness(minutes=1).check(b"pointer", 3, NOW + timedelta(seconds=60))
    with pytest.raises(SequenceWentBack):
        make_freshness(minutes=-60).check_not_older(2)


def test_a_freshness_is_due_after_half_its_lifetime_or_with_another_pointer() -> None:
    assert not make_freshness(minutes=5).is_due(b"pointer", NOW, LIFETIME)
    assert make_freshness(minutes=4.9).is_due(b"pointer", NOW, LIFETIME)
    assert make_freshness(minutes=9).is_due(b"another", NOW, LIFETIME)
