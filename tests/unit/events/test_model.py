"""Events as they are stored and forwarded, and when two deliveries are the same event."""

import hashlib
import json
from typing import Any

import pytest

from events.model import Event, Identity

EVENT = Event("1", "/pipeline", "io.rebundle.model_version.created.v1", {"version": "ü 1"})
ENVELOPE: dict[str, Any] = {
    "specversion": "1.0",
    "id": "1",
    "source": "/pipeline",
    "type": "io.rebundle.model_version.created.v1",
    "datacontenttype": "application/json",
    "data": {"version": "ü 1"},
}


def test_an_event_is_written_in_the_structured_form_of_cloudevents() -> None:
    assert json.loads(EVENT.structured()) == ENVELOPE


def test_optional_attributes_and_extensions_are_kept_and_absent_ones_left_out() -> None:
    more = {"subject": "", "time": "2026-01-01T00:00:00Z", "traceparent": "00-1"}
    event = Event(
        "1",
        "/pipeline",
        EVENT.type,
        EVENT.data,
        "",
        "2026-01-01T00:00:00Z",
        {"traceparent": "00-1"},
    )

    assert json.loads(event.structured()) == ENVELOPE | more


def test_no_extension_can_replace_a_core_attribute() -> None:
    extensions = {"id": "2", "type": "other", "datacontenttype": "text/plain", "data": 1}
    event = Event("1", "/pipeline", EVENT.type, EVENT.data, extensions=extensions)

    assert json.loads(event.structured()) == ENVELOPE


def test_an_event_is_written_as_short_utf8() -> None:
    body = EVENT.structured()

    assert "ü".encode() in body
    assert b": " not in body.replace("ü 1".encode(), b"")
    assert b", " not in body


@pytest.mark.parametrize(
    "other", [("kafka", "s", "1"), ("http", "s2", "1"), ("http", "s", "2"), ("https", "", "1")]
)
def test_another_source_or_id_is_another_identity(other: tuple[str, str, str]) -> None:
    assert Identity(*other).digest != Identity("http", "s", "1").digest


def test_the_digest_of_an_identity_is_the_one_in_pointers() -> None:
    assert (
        Identity("http", "ü", "1").digest
        == hashlib.sha256('["http", "ü", "1"]'.encode()).hexdigest()
    )
