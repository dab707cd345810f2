"""The headers that a server sends with Rebundle's objects to a browser, gsutil, or the cache of a
public bucket.

Without `no-store`, Google lets caches keep a public object for an hour, and they would serve an old
pointer. An archive with the content encoding gzip would be decompressed on its way, and no digest
would match.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import closing
from uuid import uuid4

import boto3
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from daemon.publishing import layout
from daemon.stores.gcs import GcsStore
from daemon.stores.port import ObjectStore
from daemon.stores.s3 import S3Store
from tests.builders_publishing import SCOPE, Bucket, make_state
from tests.builders_runtime import ThreadRuntime
from tests.contract.servers import ACCESS_KEY, REGION, SECRET_KEY
from tests.services.gcs import Gcs

pytestmark = pytest.mark.slow

PREFIX = "team"
Headers = tuple[str, str, str | None]
"""Content type, cache control, content encoding."""


async def publish(store: ObjectStore, runtime: ThreadRuntime) -> dict[str, str]:
    """The expected content type of each key: a created object, a replaced one, a file of the live
    tree.
    """
    bucket = Bucket(store, runtime)
    first = await bucket.publish(make_state(1))
    live = (await bucket.publish(make_state(2))).pointer.live
    assert first.version is not None
    assert live is not None
    await bucket.live_tree.reconcile(SCOPE)
    return {
        layout.pointer(SCOPE): "application/json",
        layout.manifest(SCOPE, live.state, live.attempt): "application/json",
        layout.archive(SCOPE, live.state, live.attempt): "application/gzip",
        layout.live_tree(SCOPE, "base/docker-compose.yml"): "text/plain; charset=utf-8",
        layout.live_tree(SCOPE, layout.MARKER): "application/json",
    }


def check(expected: dict[str, str], headers_of: Callable[[str], Headers]) -> None:
    assert {key: headers_of(f"{PREFIX}/{key}") for key in expected} == {
        key: (content_type, "no-store", None) for key, content_type in expected.items()
    }


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [variable for variable in os.environ if variable.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)


def test_on_s3(s3_server: str) -> None:
    bucket = f"headers-{uuid4().hex[:8]}"
    with (
        ThreadRuntime() as runtime,
        closing(boto3.client("s3", endpoint_url=s3_server, region_name=REGION)) as client,
    ):
        client.create_bucket(Bucket=bucket)
        with closing(S3Store(bucket, PREFIX, runtime, endpoint=s3_server, region=REGION)) as store:
            expected = asyncio.run(publish(store, runtime))

        def headers_of(key: str) -> Headers:
            answer = client.head_object(Bucket=bucket, Key=key)
            return answer["ContentType"], answer["CacheControl"], answer.get("ContentEncoding")

        check(expected, headers_of)


def test_on_gcs(gcs_server: Gcs) -> None:
    name = f"headers-{uuid4().hex[:8]}"
    gcs_server.create_bucket(name)
    with ThreadRuntime() as runtime:
        with closing(GcsStore(name, PREFIX, runtime, endpoint=gcs_server.address)) as store:
            expected = asyncio.run(publish(store, runtime))
        reached = {"api_endpoint": gcs_server.address}
        with closing(
            storage.Client("any", AnonymousCredentials(), client_options=reached)
        ) as client:

            def headers_of(key: str) -> Headers:
                found = client.bucket(name).get_blob(key)
                return found.content_type, found.cache_control, found.content_encoding

            check(expected, headers_of)
