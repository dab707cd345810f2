"""Tables and pairs for people; all text is escaped."""

import pytest

from daemon.cli.formatting import columns, pairs
from daemon.inspection.escaping import plain


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain → ü", "plain → ü"),
        ("red \033[31m", "red \\x1b[31m"),
        ("two\nlines", "two\\nlines"),
        ("right\u202eleft", "right\\u202eleft"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("no\u00a0break", "no\\xa0break"),
    ],
)
def test_plain_escapes_control_and_invisible_characters(text, escaped):
    assert plain(text) == escaped


def test_columns_are_as_wide_as_their_widest_cell():
    long = "x" * 200

    assert columns(("A", "B"), [("1", long), ("two", None)]) == [
        "A     B",
        f"1     {long}",
        "two   -",
    ]


def test_columns_count_wide_and_combining_characters_as_a_terminal_does():
    first, second, third = columns(("A", "B"), [("模型", 1), ("e\u0301", 2)])

    assert (first, second, third) == ("A      B", "模型   1", "e\u0301      2")


def test_columns_escape_their_cells():
    assert columns(("A",), [("\033[2J",)])[1] == "\\x1b[2J"


def test_pairs_leave_absent_values_out_and_keep_zero():
    assert pairs([("a", None), ("files", 0), ("b", "")]) == ["files:  0"]


def test_a_table_has_a_cell_for_each_column():
    with pytest.raises(ValueError, match="zip"):
        columns(("A", "B"), [("1", "2", "3")])


def test_pairs_without_values_make_no_lines():
    assert pairs([]) == []
    assert pairs([("name", None), ("other", "")]) == []
