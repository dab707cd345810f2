"""deploy/policies against the adapters' real requests: all of them are allowed, and none that would
lose a state.

The requests of the S3 adapter are recorded by a server while it publishes, rolls back, probes and
deletes. Permissions of Cloud Storage have no conditions, so for it the operations of the store's
port are used.
"""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from daemon.publishing import layout, protocol
from daemon.publishing.bucket_identity import BucketIdentity
from daemon.publishing.maintenance.garbage_collector import GarbageCollector
from daemon.publishing.maintenance.retention_rules import RetentionPolicy
from daemon.retry import Backoff
from daemon.stores.errors import StoreRefused
from daemon.stores.port import Content, ObjectStore
from daemon.stores.probe import probe
from daemon.stores.s3 import S3Store
from daemon.stores.wrappers.etag_form import EtagFormStore
from tests.builders_runtime import InlineRuntime, ThreadRuntime
from tests.services.availability import available
from tests.services.goprograms import go_module
from tests.services.processes import LOOPBACK, free_port, serving
from tests.services.versitygw import MODULE
from tests.support.buckets import SCOPE, PublishedBucket, composition_with
from tests.support.faulty_s3_server import Defect, Request, faulty_s3
from tests.support.faulty_store import FaultyStore
from tests.support.memory_store import MemoryStore
from tests.support.policies import (
    ARN,
    BUCKET,
    POLICIES,
    PREFIX,
    AwsPolicies,
    GcsRole,
    PolicyRequest,
    asked,
    filled,
)

PUBLISHER = AwsPolicies("rebundle-publisher", "s3-publisher.json")
COLLECTOR = AwsPolicies("rebundle-collector", "s3-collector.json")
READER = AwsPolicies("rebundle-reader", "s3-reader.json")
EDITOR = AwsPolicies("ann", "s3-editor.json")
HISTORY = layout.history(SCOPE, 1, 64, "w")


async def work(store: ObjectStore, runtime: ThreadRuntime | InlineRuntime) -> None:
    """Everything that a publisher does: the probe, states with and without removed models, edits of
    base/, a rollback.
    """
    assert (await probe(store, runtime)).usable
    await BucketIdentity(store, BucketMemory(), runtime, Backoff(1, 1)).check()
    bucket = PublishedBucket(store, runtime)
    await bucket.publish(composition_with("1", "1"), "state-1", 1)
    await bucket.publish(composition_with("2"), "state-2", 2)
    edited = layout.live_tree(SCOPE, "base/bundle/docker-compose.yaml")
    for body in (b"by hand", b"by another hand", b"by hand"):
        await store.replace(edited, Content(body), (await store.get(edited)).version)
        await bucket.live_tree.reconcile(SCOPE)
    assert len(await store.scan(layout.all_replaced(SCOPE))) == 2
    base = await bucket.reader.pointer(SCOPE)
    [target] = base.pointer.retained_of("state-1")
    await bucket.publisher.swap(
        SCOPE, base, protocol.rollback(base.pointer, bucket.publisher.writing("ann"), target)
    )
    await bucket.live_tree.reconcile(SCOPE)
    await bucket.publish(composition_with("3"), "state-3", 3)
    await store.create(HISTORY, Content(b"{}"))
    released = await collector(store, runtime).collect(SCOPE, "test", parts=frozenset({"release"}))
    assert [release.publication.state for release in released.released] == ["state-2"]


class BucketMemory:
    """The journal of a daemon that has published nothing yet."""

    async def bucket(self) -> str | None:
        return None

    async def remember_bucket(self, bucket: str) -> None:
        pass


async def collect(store: ObjectStore, runtime: ThreadRuntime | InlineRuntime) -> None:
    """Everything that a collector does: it deletes what a publisher has released."""
    collected = await collector(store, runtime).collect(SCOPE, "test", parts=frozenset({"delete"}))
    assert [deletable.folder.id.state for deletable in collected.deleted] == ["state-2"]
    assert len(collected.copies) == 1


def collector(store: ObjectStore, runtime: ThreadRuntime | InlineRuntime) -> GarbageCollector:
    bucket = PublishedBucket(store, runtime)
    at_once = RetentionPolicy(newest=1, days=0, dropped_days=0, grace_hours=0)
    return GarbageCollector(store, bucket.reader, bucket.publisher, runtime, at_once)


@dataclass(frozen=True, slots=True)
class Recorded:
    publishing: list[Request]
    collecting: list[Request]


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    with (
        pytest.MonkeyPatch.context() as patch,
        faulty_s3(Defect.NONE) as server,
        ThreadRuntime() as runtime,
    ):
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        made = S3Store("bucket", PREFIX, runtime, endpoint=server.address, region="us-east-1")
        store = EtagFormStore(made, made.unquoted(), runtime)
        asyncio.run(work(store, runtime))
        publishing = list(server.requests)
        asyncio.run(collect(store, runtime))
        collecting = server.requests[len(publishing) :]
        made.close()
    return Recorded(publishing, collecting)


def without_conditions(request: Request) -> Request:
    kept = {
        name: value
        for name, value in request.headers.items()
        if name not in {"if-match", "if-none-match"}
    }
    return replace(request, headers=kept)


def test_every_request_of_a_publisher_is_allowed(recorded):
    refused = [request for request in recorded.publishing if not PUBLISHER.allows(asked(request))]

    assert refused == []
    assert {request.method for request in recorded.publishing} == {"GET", "HEAD", "PUT", "DELETE"}


def test_every_request_of_a_collector_is_allowed_and_a_publisher_may_not_do_its_work(recorded):
    assert all(COLLECTOR.allows(asked(request)) for request in recorded.collecting)
    deletions = [request for request in recorded.collecting if request.method == "DELETE"]
    assert len(deletions) == 3
    assert len([request for request in deletions if "/.rebundle/replaced/" in request.key]) == 1
    assert not any(PUBLISHER.allows(asked(request)) for request in deletions)
    assert not any(
        COLLECTOR.allows(asked(request))
        for request in recorded.publishing
        if request.method == "PUT"
    )


def test_a_missing_key_is_answered_404_and_not_403(recorded):
    """S3 answers 403 to a client that may not list; a read has no prefix for a condition."""
    for role in (PUBLISHER, COLLECTOR, READER):
        assert role.allows(PolicyRequest("s3:ListBucket", ARN))
        assert not role.allows(PolicyRequest("s3:ListBucket", ARN, {"s3:prefix": "other/"}))


def test_no_write_of_a_publisher_is_allowed_without_its_condition(recorded):
    writes = [request for request in recorded.publishing if request.method in {"PUT", "DELETE"}]

    assert len(writes) > 20
    assert not any(PUBLISHER.allows(asked(without_conditions(request))) for request in writes)


ATTEMPT = f"{ARN}/{PREFIX}/{SCOPE}/states/state-1/attempt"
GUARDED = [f"{ATTEMPT}/{name}" for name in ("bundle.tar.gz", "manifest.json", "manifest.dsse.json")]
POINTERS = [f"{ARN}/{PREFIX}/{SCOPE}/{name}" for name in ("pointer.json", "freshness.json")]


class Everything(AwsPolicies):
    """An administrator or an old release, which only the bucket policy restricts."""

    def __init__(self) -> None:
        super().__init__("administrator")
        actions = ["s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:GetObject"]
        self._own = [{"Effect": "Allow", "Action": actions, "Resource": f"{ARN}/*"}]


@pytest.mark.parametrize(
    "resource", [*GUARDED, f"{ARN}/{PREFIX}/{HISTORY}", f"{ARN}/{PREFIX}/{layout.BUCKET}"]
)
def test_no_role_overwrites_or_deletes_a_state_history_or_the_id_of_the_bucket(resource):
    for role in (PUBLISHER, Everything()):
        assert role.allows(PolicyRequest("s3:PutObject", resource, {"s3:if-none-match": "*"}))
        assert not role.allows(PolicyRequest("s3:PutObject", resource))
        assert not role.allows(PolicyRequest("s3:PutObject", resource, {"s3:if-match": "etag"}))
        assert not role.allows(PolicyRequest("s3:DeleteObject", resource, {"s3:if-match": "etag"}))
        assert not role.allows(PolicyRequest("s3:DeleteObjectVersion", resource))


@pytest.mark.parametrize("resource", POINTERS)
def test_no_role_writes_a_pointer_without_a_condition_or_deletes_it(resource):
    for role in (PUBLISHER, Everything()):
        assert role.allows(PolicyRequest("s3:PutObject", resource, {"s3:if-none-match": "*"}))
        assert role.allows(PolicyRequest("s3:PutObject", resource, {"s3:if-match": "etag"}))
        assert not role.allows(PolicyRequest("s3:PutObject", resource))
        assert not role.allows(PolicyRequest("s3:DeleteObject", resource, {"s3:if-match": "etag"}))


@pytest.mark.parametrize(
    "scope", ["states/edge", "b/states", "history/edge", "b/history", "states/states"]
)
def test_the_pointer_of_a_scope_named_like_a_rebundle_folder_can_be_swapped(scope):
    for name in (
        "pointer.json",
        "docker-compose-gen/.rebundle.json",
        "docker-compose-gen/base/bundle/docker-compose.yaml",
    ):
        resource = f"{ARN}/{PREFIX}/{scope}/{name}"
        assert PUBLISHER.allows(PolicyRequest("s3:PutObject", resource, {"s3:if-match": "etag"}))


def test_a_publisher_may_delete_files_that_left_the_bundle():
    left = f"{ARN}/{PREFIX}/{SCOPE}/docker-compose-gen/base/bundle/batching_101.txt"

    assert PUBLISHER.allows(PolicyRequest("s3:DeleteObject", left, {"s3:if-match": "etag"}))
    assert not PUBLISHER.allows(PolicyRequest("s3:DeleteObject", left))


def test_copies_of_replaced_files_are_deleted_by_the_collector_alone():
    copy = f"{ARN}/{PREFIX}/{layout.replaced(SCOPE, 'base/bundle/docker-compose.yaml', '0' * 64)}"

    assert PUBLISHER.allows(PolicyRequest("s3:PutObject", copy, {"s3:if-match": "etag"}))
    assert COLLECTOR.allows(PolicyRequest("s3:DeleteObject", copy, {"s3:if-match": "etag"}))
    assert not COLLECTOR.allows(PolicyRequest("s3:DeleteObject", copy))
    for role in (PUBLISHER, EDITOR, READER):
        assert not role.allows(PolicyRequest("s3:DeleteObject", copy, {"s3:if-match": "etag"}))


def test_only_operators_may_write_files_of_operators():
    example = f"{ARN}/{PREFIX}/{SCOPE}/docker-compose-gen/example/.env"

    assert EDITOR.allows(PolicyRequest("s3:PutObject", example))
    assert EDITOR.allows(PolicyRequest("s3:DeleteObject", example))
    assert not PUBLISHER.allows(PolicyRequest("s3:PutObject", example))
    assert not PUBLISHER.allows(PolicyRequest("s3:DeleteObject", example, {"s3:if-match": "etag"}))
    for other in (
        *GUARDED,
        *POINTERS,
        f"{ARN}/{PREFIX}/{SCOPE}/docker-compose-gen/base/bundle/docker-compose.yaml",
    ):
        assert not EDITOR.allows(PolicyRequest("s3:PutObject", other, {"s3:if-none-match": "*"}))


def test_readers_write_nothing(recorded):
    for request in (*recorded.publishing, *recorded.collecting):
        assert READER.allows(asked(request)) == (request.method in {"GET", "HEAD"})


def test_cloud_storage_allows_every_request_and_no_role_replaces_a_state():
    done: list[tuple[str, str]] = []
    prefix = f"{PREFIX}/"

    async def note(operation: str, key: str) -> None:
        done.append((operation, prefix + key))

    runtime = InlineRuntime()
    store = FaultyStore(MemoryStore(runtime), before=note)
    asyncio.run(work(store, runtime))
    publishing = list(done)
    asyncio.run(collect(store, runtime))
    collecting = done[len(publishing) :]
    publisher, remover, reader, editor = (
        GcsRole(name)
        for name in (
            "gcs-condition-publisher.yaml",
            "gcs-condition-collector.yaml",
            None,
            "gcs-condition-editor.yaml",
        )
    )

    assert [role for role in publishing if not publisher.allows(*role)] == []
    assert [item for item in collecting if not remover.allows(*item)] == []
    assert {operation for operation, _ in publishing} == {
        "get",
        "scan",
        "folders",
        "create",
        "replace",
        "delete",
    } - {"folders"}
    for key in [
        f"{prefix}{SCOPE}/states/s/a/{name}" for name in ("bundle.tar.gz", "manifest.json")
    ] + [
        prefix + HISTORY,
        prefix + layout.BUCKET,
    ]:
        assert not publisher.allows("replace", key)
        assert not publisher.allows("delete", key)
        assert not reader.allows("delete", key)
    assert not remover.allows("replace", f"{prefix}{SCOPE}/pointer.json")
    assert not remover.allows(
        "delete", f"{prefix}{SCOPE}/docker-compose-gen/base/bundle/docker-compose.yaml"
    )
    for other in (reader, editor):
        assert not other.allows("delete", prefix + layout.replaced(SCOPE, "README.md", "0" * 64))
    assert not remover.allows("delete", prefix + HISTORY)
    assert editor.allows("replace", f"{prefix}{SCOPE}/docker-compose-gen/example/.env")
    assert not editor.allows(
        "replace", f"{prefix}{SCOPE}/docker-compose-gen/base/bundle/docker-compose.yaml"
    )
    assert not publisher.allows("replace", f"other/{SCOPE}/pointer.json")


def test_every_template_is_valid_for_its_tool():
    for path in POLICIES.iterdir():
        found = (
            json.loads(filled(path.name))
            if path.suffix == ".json"
            else yaml.safe_load(filled(path.name))
        )
        assert isinstance(found, dict)
        for statement in found.get("Statement", ()):
            # S3 accepts these two keys for these two actions alone.
            conditions = {key for keys in statement.get("Condition", {}).values() for key in keys}
            actions = (
                {statement["Action"]}
                if isinstance(statement["Action"], str)
                else set(statement["Action"])
            )
            assert "s3:if-none-match" not in conditions or actions == {"s3:PutObject"}
            assert "s3:if-match" not in conditions or actions in (
                {"s3:PutObject"},
                {"s3:DeleteObject"},
            )


def test_lifecycle_rules_never_expire_published_objects():
    for rule in json.loads(filled("s3-lifecycle.json"))["Rules"]:
        assert "Expiration" not in rule or rule["Filter"]["Prefix"].endswith("/.rebundle/probe/")
    for rule in json.loads(filled("gcs-lifecycle.json"))["rule"]:
        condition = rule["condition"]
        assert set(condition) == {"daysSinceNoncurrentTime"} or condition["matchesPrefix"] == [
            f"{PREFIX}/.rebundle/probe/"
        ]


# ---- on a server that evaluates policies itself


SECRET = "secret-of-everybody"


@contextmanager
def gateway(folder: Path) -> Iterator[str]:
    """versitygw with two users that have no other rights: publisher and collector."""
    binary, port = str(available(lambda: go_module(MODULE))), free_port()
    for name in ("objects", "users"):
        (folder / name).mkdir()
    root = ("--access", "root", "--secret", SECRET)
    places = ("--port", f"{LOOPBACK}:{port}", "--iam-dir", str(folder / "users"))
    with serving([binary, *places, *root, "posix", str(folder / "objects")], port, folder / "log"):
        address = f"http://{LOOPBACK}:{port}"
        for name in ("publisher", "collector"):
            made = ("create-user", "--access", name, "--secret", SECRET, "--role", "user")
            subprocess.run(
                [binary, "admin", *root, "--endpoint-url", address, *made], check=True, timeout=30
            )
        yield address


def granted_by_bucket() -> str:
    """Both roles' policies as one bucket policy, without the conditions that this release does not
    know.
    """
    statements: list[dict[str, Any]] = []
    for name in ("publisher", "collector"):
        for statement in json.loads(filled(f"s3-{name}.json"))["Statement"]:
            assert set(statement.get("Condition", {})) <= {"Null", "StringLikeIfExists"}
            kept = {key: value for key, value in statement.items() if key != "Condition"}
            statements.append(
                {**kept, "Sid": f"{name}{statement['Sid']}", "Principal": {"AWS": [name]}}
            )
    never = next(
        item
        for item in json.loads(filled("s3-bucket.json"))["Statement"]
        if item["Sid"] == "PointersHistoryAndTheIdAreNeverDeleted"
    )
    return json.dumps({"Version": "2012-10-17", "Statement": [*statements, never]})


def test_a_real_server_allows_each_role_exactly_its_work(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with gateway(tmp_path) as address, ThreadRuntime() as runtime:

        def opened(user: str) -> S3Store:
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", user)
            store = S3Store(BUCKET, PREFIX, runtime, endpoint=address, region="us-east-1")
            asyncio.run(
                store.scan("")
            )  # the client is made at its first call, with the key that is there then
            return store

        root = boto3.client(
            "s3",
            endpoint_url=address,
            region_name="us-east-1",
            aws_access_key_id="root",
            aws_secret_access_key=SECRET,
        )
        root.create_bucket(Bucket=BUCKET)
        root.put_bucket_policy(Bucket=BUCKET, Policy=granted_by_bucket())
        root.close()
        publisher, collecting = opened("publisher"), opened("collector")

        async def play() -> None:
            await work(publisher, runtime)
            for key in (
                layout.pointer(SCOPE),
                HISTORY,
                (await publisher.scan(f"{SCOPE}/states/"))[0].key,
            ):
                with pytest.raises(StoreRefused, match="AccessDenied"):
                    await publisher.delete(key, (await publisher.get(key)).version)
            example = layout.live_tree(SCOPE, "example/.env")
            with pytest.raises(StoreRefused, match="AccessDenied"):
                await publisher.delete(example, (await publisher.get(example)).version)
            with pytest.raises(StoreRefused, match="AccessDenied"):
                await collecting.create(f"{SCOPE}/states/s/a/manifest.json", Content(b"{}"))
            with pytest.raises(StoreRefused, match="AccessDenied"):
                await collecting.get(example)
            await collect(collecting, runtime)
            assert list(await publisher.scan(f"{SCOPE}/states/state-2/")) == []

        asyncio.run(play())
        publisher.close()
        collecting.close()
