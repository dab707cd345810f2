"""Ages, as text for people."""

from datetime import UTC, datetime, timedelta

import pytest

from daemon.inspection.ages import age

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
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
def test_age_is_rough_and_never_negative(seconds, text):
    assert age((NOW - timedelta(seconds=seconds)).isoformat(), NOW) == text


def test_age_of_no_time_and_of_no_valid_time():
    assert age(None, NOW) == "-"
    assert age("yesterday", NOW) == "?"


def test_age_of_a_time_without_an_offset_and_at_the_end_of_time():
    assert age("2026-01-01T00:00:00", NOW) == "?"
    assert age("0001-01-01T00:00:00", NOW) == "?"
    assert age("0001-01-01T00:00:00+23:59", NOW).endswith("d")
    assert age("9999-12-31T23:59:59-23:59", NOW) == "0s"
