"""When two URLs name one bucket, when a marker is trusted, and where accepted sequences are stored."""

import asyncio
import json
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from daemon import bucket
from daemon.bucket import Keys, bucket_on, open_store
from daemon.publishing import layout
from daemon.publishing.errors import PolicyUnusable, SequenceWentBack
from daemon.publishing.live_tree.results import FinishedPass
from daemon.publishing.trust.keys import KeySigner, generate
from daemon.publishing.trust.policy import TrustedKey, TrustPolicy
from daemon.settings import load
from daemon.stores.port import Content
from tests.builders_publishing import SCOPE, Bucket, make_state
from tests.builders_runtime import InlineRuntime
from tests.support.memory_store import MemoryStore

SETTINGS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)


async def read_older_as_another(
    state_file: Path, one: str, other: str, name: str = "", value: str = ""
) -> None:
    """A newer pointer is accepted through `one`, then an older one is read through `other`, with a
    variable set.
    """
    runtime = InlineRuntime()
    store = MemoryStore(runtime)

    def opened(url: str) -> Bucket:
        opened = open_store(url, runtime, around=lambda _: store)
        return bucket_on(opened, runtime, keys=Keys(state_file=state_file))

    writer = Bucket(store, runtime)
    await writer.publish(make_state(1))
    older = await store.get(layout.pointer(SCOPE))
    await writer.publish(make_state(2))
    await opened(one).reader.pointer(SCOPE)
    there = await store.get(layout.pointer(SCOPE))
    await store.replace(layout.pointer(SCOPE), Content(older.body), there.version)
    with pytest.MonkeyPatch.context() as patch:
        if name:
            patch.setenv(name, value)
        await opened(other).reader.pointer(SCOPE)


@pytest.mark.parametrize(
    ("one", "other", "name", "value"),
    [
        ("s3://b/p", "s3://b/p/", "", ""),
        ("s3://b?endpoint=http://x:9000", "s3://b?endpoint=http://x:9000/", "", ""),
        ("s3://b?endpoint=http://x:9000", "s3://b?endpoint=HTTP://X:9000", "", ""),
        ("s3://b?endpoint=http://x", "s3://b?endpoint=http://x:80/", "", ""),
        (
            "s3://b?endpoint=https://x/a",
            "s3://b?endpoint=https://x:443/a/&region=eu-west-1",
            "",
            "",
        ),
        ("s3://b?endpoint=http://x:9000", "s3://b", "AWS_ENDPOINT_URL", "http://x:9000/"),
        ("s3://b?endpoint=http://x:9000", "s3://b", "AWS_ENDPOINT_URL_S3", "http://x:9000"),
        (
            "s3://b?endpoint=http://x:9000",
            "s3://b?endpoint=http://x:9000",
            "AWS_ENDPOINT_URL_S3",
            "http://other",
        ),
        ("gs://b?endpoint=http://x:4443", "gs://b?endpoint=http://X:4443/", "", ""),
        ("gs://b?endpoint=http://x:4443", "gs://b", "STORAGE_EMULATOR_HOST", "http://x:4443"),
    ],
)
def test_sequences_seen_under_one_name_of_a_bucket_count_under_another(
    tmp_path: Path, one: str, other: str, name: str, value: str
) -> None:
    with pytest.raises(SequenceWentBack):
        asyncio.run(read_older_as_another(tmp_path / "accepted.json", one, other, name, value))


@pytest.mark.parametrize(
    ("one", "other", "name", "value"),
    [
        ("s3://b", "gs://b", "", ""),
        ("s3://b", "s3://c", "", ""),
        ("s3://b/p", "s3://b/P", "", ""),
        ("s3://b?endpoint=http://x", "s3://b?endpoint=https://x", "", ""),
        ("s3://b?endpoint=http://x:9000", "s3://b?endpoint=http://x:9001", "", ""),
        ("s3://b?endpoint=http://x/a", "s3://b?endpoint=http://x/b", "", ""),
        ("s3://b", "s3://b", "AWS_ENDPOINT_URL", "http://x:9000"),
        ("s3://b", "s3://b", "AWS_ENDPOINT_URL_S3", "http://x:9000"),
        ("gs://b", "gs://b", "STORAGE_EMULATOR_HOST", "http://x:4443"),
    ],
)
def test_sequences_seen_in_another_bucket_do_not_count(
    tmp_path: Path, one: str, other: str, name: str, value: str
) -> None:
    asyncio.run(read_older_as_another(tmp_path / "accepted.json", one, other, name, value))


def test_the_variable_specific_to_s3_takes_precedence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://y")
    one, name, value = "s3://b?endpoint=http://x", "AWS_ENDPOINT_URL_S3", "http://x"
    with pytest.raises(SequenceWentBack):
        asyncio.run(read_older_as_another(tmp_path / "accepted.json", one, "s3://b", name, value))


@pytest.mark.parametrize("with_policy", [True, False])
def test_with_a_policy_the_marker_is_not_trusted(tmp_path: Path, *, with_policy: bool) -> None:
    private, public = generate()
    signer = KeySigner(serialization.load_pem_private_key(private.encode(), None))
    trusted = TrustedKey(keyid=public.keyid, public=public.pem, roles=("publish", "pointer"))
    trust = TrustPolicy(keys=(trusted,)) if with_policy else None
    compose = layout.live_tree(SCOPE, "base/docker-compose.yml")

    async def play() -> tuple[str, ...]:
        runtime = InlineRuntime()
        store = MemoryStore(runtime)
        writer = Bucket(store, runtime, signers=[signer])
        await writer.publish(make_state(1))
        await writer.live_tree.reconcile(SCOPE)
        forged = await store.replace(
            compose, Content(b"another"), (await store.get(compose)).version
        )
        marker = await store.get(layout.live_tree(SCOPE, layout.MARKER))
        document = json.loads(marker.body)
        document["files"]["base/docker-compose.yml"]["version"] = forged
        await store.replace(
            layout.live_tree(SCOPE, layout.MARKER),
            Content(json.dumps(document).encode()),
            marker.version,
        )
        keys = Keys(trust=trust, state_file=tmp_path / "accepted.json")
        opened = bucket_on(
            open_store("gs://b", runtime, around=lambda _: store), runtime, keys=keys
        )
        result = await opened.live_tree.reconcile(SCOPE)
        assert isinstance(result, FinishedPass)
        return result.written

    assert asyncio.run(play()) == (("base/docker-compose.yml",) if with_policy else ())


def test_credentials_in_a_folder_are_readable_only_by_their_owner(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "bucket"), InlineRuntime()).store
    keys = [
        layout.live_tree(SCOPE, path) for path in ("example/creds/bundle/.env", "example/conf/.env")
    ]
    before = os.umask(0)
    try:
        for key in keys:
            asyncio.run(store.create(key, Content(b"")))
    finally:
        os.umask(before)

    assert [stat.S_IMODE((tmp_path / "bucket" / key).stat().st_mode) for key in keys] == [
        0o600,
        0o666,
    ]


OTHER_USER = 12345


@pytest.mark.skipif(os.geteuid() != 0, reason="only root works with another user's files")
def test_root_may_use_the_state_file_of_the_daemon_user_and_of_no_other(tmp_path: Path) -> None:
    """A command that root runs; docs/operations.md names it."""
    policy, folder = tmp_path / "policy.json", tmp_path / "state"
    policy.write_bytes(TrustPolicy().written())
    folder.mkdir(mode=0o700)
    os.chown(folder, OTHER_USER, OTHER_USER)
    kept = folder / "accepted.json"
    settings = load(
        {}, {"REBUNDLE_TRUST__POLICY": str(policy), "REBUNDLE_TRUST__STATE_FILE": str(kept)}, None
    ).settings
    assert bucket.keys_of(settings).state_file == kept
    kept.write_text("{}")
    os.chown(kept, OTHER_USER, OTHER_USER)
    assert bucket.keys_of(settings).state_file == kept
    os.chown(kept, OTHER_USER + 1, OTHER_USER)
    with pytest.raises(PolicyUnusable, match=r"belongs to another user .*chown 0 "):
        bucket.keys_of(settings)


def test_a_missing_state_file_is_created_later(tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    policy.write_bytes(TrustPolicy().written())
    policy.chmod(0o644)
    kept = tmp_path / "not" / "there" / "accepted.json"
    settings = load(
        {}, {"REBUNDLE_TRUST__POLICY": str(policy), "REBUNDLE_TRUST__STATE_FILE": str(kept)}, None
    ).settings
    assert bucket.keys_of(settings).state_file == kept
