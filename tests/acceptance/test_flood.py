"""A flood from one address keeps nobody else out. `make flood` measures how long the others wait."""

from pathlib import Path

import pytest

from tests.support.flood import flooded_daemon, keeping, pipelining

FLOODS = {
    "pipelined requests that are never read": lambda port: pipelining(port, 300),
    "more connections than one peer may have": lambda port: keeping(port, 700, 60),
}


@pytest.mark.slow
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_others_are_served_during_a_flood_and_after_it(tmp_path: Path, flood) -> None:
    with flooded_daemon(tmp_path) as (daemon, user):
        before = user.measure(probes=20, events=2)
        with flood(daemon.port()):
            during = user.measure(probes=20, events=20)
        after = user.measure(probes=20, events=2)

    assert (before.refused, during.refused, after.refused) == ([], [], [])
