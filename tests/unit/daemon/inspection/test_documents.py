"""The documents of values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from daemon.inspection.documents import INLINE, to_document


class Color(StrEnum):
    RED = "red"


class Stored(BaseModel):
    by: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inner:
    first: int
    second: str | None


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner | None = field(metadata=INLINE)
    from_: Color
    nested: tuple[Inner, ...] = ()
    stored: Mapping[str, object] | None = None


def test_the_fields_of_a_value_keep_their_order_and_inline_ones_take_their_place():
    document = to_document(Outer("n", Inner(1, None), Color.RED, (Inner(2, "x"),)))

    assert list(document.items()) == [
        ("name", "n"),
        ("first", 1),
        ("second", None),
        ("from", "red"),
        ("nested", [{"first": 2, "second": "x"}]),
        ("stored", None),
    ]


def test_an_inline_field_without_a_value_is_absent():
    assert list(to_document(Outer("n", None, Color.RED))) == ["name", "from", "nested", "stored"]


def test_models_and_members_of_enumerations_are_plain_in_yaml_too():
    stored = {"hold": Stored(by="alice", tags=("a",)), "color": Color.RED}

    document = to_document(Outer("n", None, Color.RED, stored=stored))

    assert document["stored"] == {"hold": {"by": "alice", "tags": ["a"]}, "color": "red"}
    assert yaml.safe_load(yaml.safe_dump(document)) == document


@pytest.mark.parametrize("value", [object(), {1}, b"x", Inner])
def test_a_value_without_a_form_is_refused(value):
    with pytest.raises(TypeError, match="has no form in a document"):
        to_document({"x": value})


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (2**53, 2**53),
        (2**53 + 1, "9007199254740993"),
        (-(2**53) - 1, "-9007199254740993"),
        (2**63 - 1, "9223372036854775807"),
        (True, True),
        (1.5e300, 1.5e300),
    ],
)
def test_an_integer_that_a_double_cannot_hold_is_text(number, shown):
    class Part(BaseModel):
        number: Any

    assert to_document({"a": [number]}) == {"a": [shown]}
    assert to_document(Part(number={"b": number})) == {"number": {"b": shown}}
    assert type(to_document(number)) is type(shown)
