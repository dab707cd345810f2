"""The probe on conforming servers: every step passes, or an optional feature is missing.
docs/stores.md agrees.

Servers that ignore conditions: `tests.contract.test_negative_controls`.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

from daemon.stores.errors import ObjectMissing, StoreRefused
from daemon.stores.gcs import GcsStore
from daemon.stores.port import Content, ObjectStore, Version
from daemon.stores.probe import probe
from daemon.stores.s3 import S3Store
from daemon.stores.wrappers.etag_form import EtagFormStore, Form
from daemon.stores.wrappers.write_guard import GuardedStore
from tests.builders_runtime import ThreadRuntime
from tests.services import gcs, ministack, testbench, versitygw
from tests.services.availability import available
from tests.services.gcs import Gcs

BUCKET = "my-bucket"
"""Named like buckets: an answer about an object names it, too."""

ALL_OK: dict[str, str] = {}
DELETES_BLINDLY = {"delete stale": "unsupported"}


@contextmanager
def s3(opened: AbstractContextManager[str]) -> Iterator[tuple[ObjectStore, EtagFormStore | None]]:
    with ExitStack() as stack, ThreadRuntime() as runtime:
        address = available(lambda: stack.enter_context(opened))
        client = boto3.client(
            "s3",
            endpoint_url=address,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        client.create_bucket(Bucket=BUCKET)
        client.close()
        store = S3Store(BUCKET, "p", runtime, endpoint=address, region="us-east-1")
        quoting = EtagFormStore(store, store.unquoted(), runtime)
        yield quoting, quoting
        store.close()


@contextmanager
def cloud_storage(
    opened: AbstractContextManager[Gcs],
) -> Iterator[tuple[ObjectStore, EtagFormStore | None]]:
    with ExitStack() as stack, ThreadRuntime() as runtime:
        server = available(lambda: stack.enter_context(opened))
        server.create_bucket(BUCKET)
        store = GcsStore(BUCKET, "p", runtime, endpoint=server.address)
        yield store, None
        store.close()


@dataclass(frozen=True, slots=True)
class Server:
    name: str
    open: Callable[[Path], AbstractContextManager[tuple[ObjectStore, EtagFormStore | None]]]
    beside_ok: dict[str, str]
    source: str
    """The version of the server under test."""


LOCK = Path(__file__).parents[2] / "requirements" / "tools" / "ministack.in"
UNVERSIONED = "0.45.0"
"""The sources of the testbench come from the machine, so it has no fixed version."""

FIT = [
    Server("versitygw", lambda folder: s3(versitygw.versitygw(folder)), ALL_OK, versitygw.MODULE),
    Server("ministack", lambda folder: s3(ministack.ministack(folder)), ALL_OK, LOCK.read_text()),
    Server(
        "fake-gcs-server",
        lambda folder: cloud_storage(gcs.gcs(folder)),
        DELETES_BLINDLY,
        gcs.MODULE,
    ),
    Server(
        "storage-testbench",
        lambda folder: cloud_storage(testbench.testbench(folder)),
        ALL_OK,
        UNVERSIONED,
    ),
]


@pytest.fixture(autouse=True)
def _credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.mark.parametrize("server", FIT, ids=lambda server: server.name)
def test_a_server_shows_what_it_honours(server, tmp_path):
    with server.open(tmp_path) as (store, quoting), ThreadRuntime() as runtime:
        result = asyncio.run(probe(store, runtime, bare=quoting))
        left = asyncio.run(store.scan(""))

    shown = {
        finding.step: str(finding.verdict)
        for finding in result.findings
        if finding.step != "clean up"
    }
    assert {step: verdict for step, verdict in shown.items() if verdict != "ok"} == server.beside_ok
    assert result.usable
    assert len(shown) == (8 if quoting is None else 9)
    assert list(left) == []
    assert quoting is None or quoting.form is Form.QUOTED


@pytest.mark.parametrize("server", FIT, ids=lambda server: server.name)
def test_a_server_that_was_not_probed_gets_its_first_write_after_one_that_it_refuses(
    server, tmp_path
):
    async def play(store: ObjectStore) -> None:
        version = await store.create("scope/pointer.json", Content(b"1"))
        await store.replace("scope/pointer.json", Content(b"2"), version)

    with server.open(tmp_path) as (store, _), ThreadRuntime() as runtime:
        asyncio.run(play(GuardedStore(store, runtime)))
        left = asyncio.run(store.scan(""))

    assert [entry.key for entry in left] == ["scope/pointer.json"]


@pytest.mark.parametrize("server", FIT, ids=lambda server: server.name)
def test_an_absent_object_is_missing_and_an_absent_bucket_needs_an_operator(server, tmp_path):
    async def play(store: ObjectStore, nowhere: ObjectStore) -> None:
        for absent in (
            store.get("absent"),
            store.get("my/bucket"),
            store.delete("absent", Version("1")),
        ):
            with pytest.raises(ObjectMissing):
                await absent
        for refused in (nowhere.create("key", Content(b"")), nowhere.scan(""), nowhere.folders("")):
            with pytest.raises(StoreRefused, match="there is no bucket nowhere"):
                await refused

    with server.open(tmp_path) as (store, quoting), ThreadRuntime() as runtime:
        known = store if quoting is None else quoting._store
        nowhere = type(known)("nowhere", "p", runtime, endpoint=known._endpoint)
        asyncio.run(play(store, nowhere))
        nowhere.close()


@pytest.mark.parametrize("server", FIT, ids=lambda server: server.name)
def test_the_list_of_tested_stores_agrees_with_the_servers(server):
    page = (Path(__file__).parents[2] / "docs" / "stores.md").read_text()
    (row,) = [
        line
        for line in page.splitlines()
        if line.startswith("|") and server.name in line.split("|")[1]
    ]
    _, _, version, how, creates, replaces, deletes, *_ = (cell.strip() for cell in row.split("|"))

    assert version
    assert version in server.source
    assert how.startswith("ran")
    assert (creates, replaces) == ("yes", "yes")
    assert deletes == ("**ignored**" if server.beside_ok == DELETES_BLINDLY else "yes")
