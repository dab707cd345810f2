"""Races on real servers: 12 writers a round, in CI a hundred rounds on each server, 10,000 by `make
contract-long`.

Servers answer losers differently. The table has the answers that were observed.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

from tests.contract.races import (
    WRITERS,
    Arena,
    GcsArena,
    Round,
    S3Arena,
    faults,
    races_to_create,
    races_to_replace,
)
from tests.services import gcs, ministack, testbench, versitygw
from tests.services.availability import available

ROUNDS = int(os.environ.get("REBUNDLE_RACE_ROUNDS", "400"))
"""Of all servers together."""


@dataclass(frozen=True, slots=True)
class Racetrack:
    """A server, and its answers to losers."""

    name: str
    opened: Callable[[ExitStack, Path], Arena]
    losers: frozenset[int] = frozenset({412})


def s3_arena(stack: ExitStack, address: str, access_key: str, secret_key: str) -> S3Arena:
    client = boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
    )
    client.create_bucket(Bucket="races")
    client.close()
    arena = S3Arena(address, "races", access_key=access_key, secret_key=secret_key)
    stack.callback(arena.close)
    return arena


def gcs_arena(server: gcs.Gcs) -> GcsArena:
    server.create_bucket("races")
    return GcsArena(server.address, "races")


def _versitygw(stack: ExitStack, folder: Path) -> Arena:
    address = available(lambda: stack.enter_context(versitygw.versitygw(folder)))
    return s3_arena(stack, address, versitygw.ACCESS_KEY, versitygw.SECRET_KEY)


def _ministack(stack: ExitStack, folder: Path) -> Arena:
    address = available(lambda: stack.enter_context(ministack.ministack(folder)))
    return s3_arena(stack, address, ministack.ACCESS_KEY, ministack.SECRET_KEY)


def _fake_gcs_server(stack: ExitStack, folder: Path) -> Arena:
    return gcs_arena(available(lambda: stack.enter_context(gcs.gcs(folder))))


def _testbench(stack: ExitStack, folder: Path) -> Arena:
    return gcs_arena(available(lambda: stack.enter_context(testbench.testbench(folder))))


RACETRACKS = (
    Racetrack("versitygw", _versitygw),
    Racetrack("ministack", _ministack),
    Racetrack("fake-gcs-server", _fake_gcs_server),
    Racetrack("storage-testbench", _testbench),
)


@pytest.fixture(scope="module", params=RACETRACKS, ids=lambda track: track.name)
def racing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Racetrack, Arena]]:
    with ExitStack() as stack:
        yield request.param, request.param.opened(stack, tmp_path_factory.mktemp("server"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "race", [races_to_create, races_to_replace], ids=lambda race: race.__name__
)
def test_every_round_has_one_winner(
    racing: tuple[Racetrack, Arena], race: Callable[[Arena, int], list[Round]]
) -> None:
    track, arena = racing

    ended = race(arena, ROUNDS // len(RACETRACKS) // 2)

    assert faults(ended, track.losers) == []


def _round(*statuses: int, stored: bytes = b"0") -> Round:
    return Round(statuses, tuple(b"%d" % writer for writer in range(WRITERS)), stored)


@pytest.mark.parametrize(
    ("ended", "fault"),
    [
        (_round(200, *[412] * 11), None),
        (_round(200, 409, *[412] * 10), r"got \[409\]"),
        (_round(200, *[412] * 11, stored=b"1"), "not that of the successful writer"),
        (_round(200, 200, *[412] * 10), "2 of 12"),
        (_round(*[412] * 12), "0 of 12"),
    ],
)
def test_the_result_of_a_round_is_checked(ended: Round, fault: str | None) -> None:
    found = ended.fault(frozenset({412}))

    assert found == fault if fault is None else re.search(fault, str(found))
