"""The age of a time, as text for people. Pure."""

from datetime import datetime


def age(since: str | None, now: datetime) -> str:
    """The age of an ISO 8601 time, rounded: 45s, 12m, 5h, 3d; "?" for a text without an offset."""
    if since is None:
        return "-"
    waited = seconds_since(since, now)
    if waited is None:
        return "?"
    seconds = int(waited)
    for unit, size, most in (("s", 1, 120), ("m", 60, 7_200), ("h", 3_600, 172_800)):
        if seconds < most:
            return f"{max(seconds, 0) // size}{unit}"
    return f"{seconds // 86_400}d"


def seconds_since(since: str, now: datetime) -> float | None:
    """The seconds since an ISO 8601 time; None for a text without an offset."""
    try:
        then = datetime.fromisoformat(since)
    except ValueError:
        return None
    return None if then.tzinfo is None else (now - then).total_seconds()
