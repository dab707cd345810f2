"""Canonical JSON, scopes and rendered files."""

import hashlib
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import pytest

from renderers.values import RenderedFile, Scope, Value, canonical_digest, known_fields
from tests.builders import golden_composition


def test_the_digest_of_a_value_is_that_of_its_canonical_json():
    assert (
        canonical_digest({"b": 1, "a": "ü"})
        == hashlib.sha256('{"a":"ü","b":1}'.encode()).hexdigest()
    )


def test_a_scope_is_read_and_written():
    assert str(Scope.parse("a/b")) == "a/b"
    assert golden_composition().scope == Scope("visual-anomaly", "core-versions")


def test_a_text_without_a_slash_is_refused_with_the_form_of_a_scope():
    with pytest.raises(ValueError, match=r"^'a' is not a scope: expected <bundle>/<target>$"):
        Scope.parse("a")


@pytest.mark.parametrize("text", ["", "a", "a/", "/b", "a/b/c", "A/b"])
def test_an_invalid_scope_is_refused(text):
    with pytest.raises(ValueError):
        Scope.parse(text)


def test_the_mode_of_a_file_has_the_form_of_the_manifest():
    assert (RenderedFile("a", b"").mode, RenderedFile("a", b"", executable=True).mode) == (
        "0644",
        "0755",
    )


class Sample(Value):
    size: int = 1
    items: list[int] = []  # noqa: RUF012  # pydantic copies it
    path: PurePosixPath | None = None
    group: dict[str, Any] | None = None
    signature: dict[str, Any] | None = None

    @cached_property
    def double(self) -> int:
        return self.size * 2


def test_a_copy_has_no_cached_property_of_the_old_fields():
    sample = Sample(size=1)
    assert sample.double == 2

    copied = sample.model_copy(update={"size": 2})

    assert (copied.size, copied.double, sample.double) == (2, 4, 2)


def test_a_copy_shares_its_fields_unless_it_is_deep():
    sample = Sample(items=[1])

    assert sample.model_copy().items is sample.items
    deep = sample.model_copy(deep=True)
    assert (deep.items, deep.items is sample.items) == ([1], False)


def test_known_fields_leave_out_what_is_absent_or_an_empty_group():
    sample = Sample(
        path=PurePosixPath("a/b"),
        group={"kept": {"b": 0}, "gone": {"deeper": {}}, "list": []},
    )

    assert known_fields(sample) == {
        "size": 1,
        "items": [],
        "path": "a/b",
        "group": {"kept": {"b": 0}, "list": []},
    }


def test_the_document_of_a_signature_keeps_its_empty_groups():
    sample = Sample(group={"empty": {}}, signature={"document": {"inputs": {}}})

    assert known_fields(sample) == {
        "size": 1,
        "items": [],
        "signature": {"document": {"inputs": {}}},
    }
