"""The servers of the contract suite, and which clauses each of them breaks. The suite checks this
table.

A permanent gap must be observed: if a server has closed it, its row is wrong. A gap that shows only
sometimes, such as lost races, proves nothing in a single run.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import boto3

from daemon.runtime import Runtime
from daemon.stores.gcs import GcsStore
from daemon.stores.port import ObjectStore
from daemon.stores.s3 import S3Store
from tests.services import gcs, ministack, testbench, versitygw

ACCESS_KEY = SECRET_KEY = "test"
REGION = "us-east-1"


class Client(ObjectStore, Protocol):
    """A store with connections to close."""

    def close(self) -> None: ...


Opens = Callable[[Runtime, str], Client]
"""A client of the server's bucket, below a prefix."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A clause that a server breaks, and why."""

    why: str
    always: bool = True


@dataclass(frozen=True, slots=True)
class Server:
    """A real server and the clauses that it breaks. `start` raises Unavailable or NotGiven."""

    name: str
    start: Callable[[ExitStack, Path], Opens]
    gaps: Mapping[str, Gap] = field(default_factory=dict)


def _s3(address: str) -> Opens:
    bucket = f"contract-{uuid4().hex[:8]}"
    keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
    client = boto3.client("s3", endpoint_url=address, region_name=REGION, **keys)
    client.create_bucket(Bucket=bucket)
    client.close()
    return lambda runtime, prefix: S3Store(bucket, prefix, runtime, endpoint=address, region=REGION)


def _gcs(server: gcs.Gcs) -> Opens:
    # This name once made the server report a missing bucket instead of a missing object.
    bucket = f"contract-bucket-{uuid4().hex[:8]}"
    server.create_bucket(bucket)
    return lambda runtime, prefix: GcsStore(bucket, prefix, runtime, endpoint=server.address)


def _ministack(stack: ExitStack, folder: Path) -> Opens:
    return _s3(stack.enter_context(ministack.ministack(folder)))


def _versitygw(stack: ExitStack, folder: Path) -> Opens:
    return _s3(stack.enter_context(versitygw.versitygw(folder)))


def _testbench(stack: ExitStack, folder: Path) -> Opens:
    return _gcs(stack.enter_context(testbench.testbench(folder)))


def _fake_gcs_server(stack: ExitStack, folder: Path) -> Opens:
    return _gcs(stack.enter_context(gcs.gcs(folder)))


_BLINDLY_DELETED = "it ignores ifGenerationMatch of a deletion"
_ABSENT_FOR_A_MOMENT = "an object that is written over is absent for a moment"

SERVERS = (
    Server("ministack", _ministack),
    Server(
        "versitygw",
        _versitygw,
        {
            "a_race_between_replace_and_delete_has_one_winner": Gap(
                "it looks at the ETag first and deletes later", always=False
            ),
            "a_race_in_one_folder_loses_no_object": Gap(
                "it refuses an object (ExistingObjectIsDirectory) whose folder goes with its last one",
                always=False,
            ),
        },
    ),
    Server("storage-testbench", _testbench),
    Server(
        "fake-gcs-server",
        _fake_gcs_server,
        {
            "delete_refuses_a_stale_version": Gap(_BLINDLY_DELETED),
            "a_race_between_replace_and_delete_has_one_winner": Gap(_BLINDLY_DELETED, always=False),
            "a_race_of_increments_loses_no_update": Gap(_ABSENT_FOR_A_MOMENT, always=False),
            "a_race_with_readers_shows_no_torn_object": Gap(_ABSENT_FOR_A_MOMENT, always=False),
        },
    ),
)
