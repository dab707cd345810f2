"""Canonical JSON, scopes and rendered files."""

import hashlib

import pytest

from renderers.values import RenderedFile, Scope, canonical_digest
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
