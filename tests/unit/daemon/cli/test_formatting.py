"""Tables, pairs and ages for people; all text is escaped."""

from datetime import UTC, datetime, timedelta

import pytest

from daemon.cli.formatting import age, columns, pairs
from daemon.inspection.escaping import plain

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


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


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (7199, "119m"),
        (7200, "2h"),
        (172_799, "47h"),
        (172_800, "2d"),
        (-5, "0s"),
    ],
)
def test_age_is_rounded_and_never_negative(seconds, expected):
    assert age((NOW - timedelta(seconds=seconds)).isoformat(), NOW) == expected


def test_age_of_no_time_and_of_no_valid_time():
    assert age(None, NOW) == "-"
    assert age("yesterday", NOW) == "?"


def test_age_of_a_time_without_an_offset_and_at_the_end_of_time():
    assert age("2026-01-01T00:00:00", NOW) == "?"
    assert age("0001-01-01T00:00:00", NOW) == "?"
    assert age("0001-01-01T00:00:00+23:59", NOW).endswith("d")
    assert age("9999-12-31T23:59:59-23:59", NOW) == "0s"
