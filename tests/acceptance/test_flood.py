"""A flood from one address does not lock out other clients.

`make flood` measures how long they wait.
"""

from pathlib import Path

import pytest

from tests.support.flood import Figures, flooded_daemon, in_turn, keeping, p99, pipelining, ratio


@pytest.mark.slow
def test_others_are_served_while_one_peer_sends_requests_in_advance(tmp_path: Path) -> None:
    with flooded_daemon(tmp_path) as (daemon, user):
        with pipelining(daemon.port(), 300):
            during = user.measure(probes=20, events=20)
            assert user.sees_closed(300, "pipelining"), "each has had one answer, and no other"
        after = user.measure(probes=20, events=2)

    assert (during.refused, after.refused) == ([], [])


@pytest.mark.slow
def test_others_are_served_while_one_peer_opens_more_connections_than_it_may_have(
    tmp_path: Path,
) -> None:
    with flooded_daemon(tmp_path) as (daemon, user):
        with keeping(daemon.port(), 700, 60):
            during = user.measure(probes=20, events=20)
            assert user.sees_closed(200, "room", "peer")
        after = user.measure(probes=20, events=2)

    assert (during.refused, after.refused) == ([], [])


class RecordingUser:
    """A user who waits for `seconds`, and records the call."""

    resident = 1

    def __init__(self, log: list[str], name: str, seconds: float) -> None:
        self._log, self._name, self._seconds = log, name, seconds

    def probe(self, figures: Figures) -> None:
        self._log.append(self._name)
        figures.livez.append(self._seconds)


def test_the_flooded_and_the_idle_daemon_are_measured_in_turn() -> None:
    log: list[str] = []
    flooded, idle = in_turn(
        RecordingUser(log, "flooded", 0.3), RecordingUser(log, "idle", 0.1), probes=4
    )

    assert log == ["idle", "flooded", "flooded", "idle"] * 2
    assert (len(flooded.livez), len(idle.livez), ratio(flooded, idle)) == (
        4,
        4,
        pytest.approx(3),
    )
    assert p99([1.0] * 39 + [2.0]) <= 2
