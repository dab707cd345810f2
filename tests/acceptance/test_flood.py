"""A flood from one address keeps nobody else out. `make flood` measures how long the others wait."""

from pathlib import Path

import pytest

from tests.support.flood import flooded_daemon, keeping, pipelining


@pytest.mark.slow
def test_others_are_served_while_one_peer_sends_requests_in_advance(tmp_path: Path) -> None:
    with flooded_daemon(tmp_path) as (daemon, user):
        with pipelining(daemon.port(), 300):
            during = user.measure(probes=20, events=20)
            assert user.sees_closed(300, "pipelining"), "each has had one answer, and no other"
        after = user.measure(probes=20, events=2)

    assert (during.refused, after.refused) == ([], [])


@pytest.mark.slow
def test_others_are_served_while_one_peer_opens_more_connections_than_it_may_have(tmp_path: Path) -> None:
    with flooded_daemon(tmp_path) as (daemon, user):
        with keeping(daemon.port(), 700, 60):
            during = user.measure(probes=20, events=20)
            assert user.sees_closed(200, "room", "peer")
        after = user.measure(probes=20, events=2)

    assert (during.refused, after.refused) == ([], [])
