"""Untrusted text on a terminal."""

import pytest

from daemon.inspection.escaping import plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a model, größer als 3", "a model, größer als 3"),
        ("\x1b[31mred\n", r"\x1b[31mred\n"),
        ("right-to-left \u202e mark", r"right-to-left \u202e mark"),
        ("lone \ud800 surrogate", r"lone \ud800 surrogate"),
        (7, "7"),
    ],
)
def test_what_cannot_be_printed_is_escaped_and_the_rest_unchanged(text, shown):
    assert plain(text) == shown
