"""How each response of Cloud Storage is mapped, and how often a request is sent, on a scripted
server.

Real servers show that conditions hold: tests/contract.
"""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from google.auth.exceptions import RefreshError, TransportError

from daemon.stores import gcs
from daemon.stores.errors import (
    ConditionFailed,
    ObjectDamaged,
    ObjectMissing,
    ObjectTooBig,
    OutcomeUnknown,
    StoreBusy,
    StoreError,
    StoreForbidden,
    StoreRefused,
    StoreUnavailable,
)
from daemon.stores.gcs import GcsStore
from daemon.stores.port import Content, Version
from tests.builders_runtime import ThreadRuntime
from tests.services.processes import free_port
from tests.support.certificates import self_signed
from tests.support.scripted_http import breaks_off, by_name, in_turn, resets, says, server, streams

BUCKET = "my-bucket"
VERSION = Version("1700000000000001")
CONTENT = Content(b"body", "text/plain", {"name": "a ü"})

Answer = Callable[[Any], None]
Call = Callable[[GcsStore], Awaitable[Any]]


def gets(store: GcsStore) -> Awaitable[Any]:
    return store.get("key")


def scans(store: GcsStore) -> Awaitable[Any]:
    return store.scan("")


def folders(store: GcsStore) -> Awaitable[Any]:
    return store.folders("")


def creates(store: GcsStore) -> Awaitable[Any]:
    return store.create("key", CONTENT)


def replaces(store: GcsStore) -> Awaitable[Any]:
    return store.replace("key", CONTENT, VERSION)


def deletes(store: GcsStore) -> Awaitable[Any]:
    return store.delete("key", VERSION)


READS = (gets, scans, folders)
CHANGES = (replaces, deletes)


def replies(**document: Any) -> Answer:
    return says(200, json.dumps(document).encode(), content_type="application/json")


def refuses(status: int, message: str = "why so") -> Answer:
    error = {
        "code": status,
        "message": message,
        "errors": [{"message": message, "domain": "global"}],
    }
    return says(status, json.dumps({"error": error}).encode(), content_type="application/json")


NO_OBJECT = refuses(404, f"No such object: {BUCKET}/key")
NO_BUCKET = refuses(404, "The specified bucket does not exist.")
STORED = replies(name="key", generation=VERSION)


def holds(body: bytes, generation: str, described: str | None = None, **headers: str) -> Answer:
    """An object: its body and its metadata are two responses."""
    media = says(200, body, X_Goog_Generation=generation, **headers)
    metadata = {"mtime": "1", "rebundle-name": "a%20%C3%BC"}
    about = replies(name="key", generation=described or generation, metadata=metadata)
    return lambda handler: (media if "alt=media" in handler.path else about)(handler)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "STORAGE_EMULATOR_HOST",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_CLOUD_PROJECT",
        "REQUESTS_CA_BUNDLE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", "/dev/null")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    hurried = gcs._BULK_RETRY.with_delay(initial=0.001, maximum=0.001)
    monkeypatch.setattr(gcs, "_BULK_RETRY", hurried)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcs, "_BULK_RETRY", gcs._BULK_RETRY.with_timeout(0.05))


@contextmanager
def opened(address: str | None, prefix: str = "") -> Iterator[GcsStore]:
    with (
        ThreadRuntime(2) as runtime,
        closing(GcsStore(BUCKET, prefix, runtime, endpoint=address)) as store,
    ):
        yield store


def result(call: Call, address: str | None, prefix: str = "") -> Any:
    async def awaited(store: GcsStore) -> Any:
        return await call(store)

    with opened(address, prefix) as store:
        return asyncio.run(awaited(store))


def refusal(call: Call, address: str | None) -> StoreError:
    with pytest.raises(StoreError) as caught:
        result(call, address)
    return caught.value


# ---- error responses


@pytest.mark.parametrize(
    ("call", "answer", "error"),
    [
        (gets, NO_OBJECT, ObjectMissing),
        *((read, NO_BUCKET, StoreRefused) for read in READS),
        *((read, refuses(403), StoreForbidden) for read in READS),
        *((read, refuses(401), StoreRefused) for read in READS),
        *((read, refuses(400), StoreRefused) for read in READS),
        (creates, refuses(412), ConditionFailed),
        (creates, refuses(409), ConditionFailed),
        (creates, NO_BUCKET, StoreRefused),
        (creates, refuses(403), StoreForbidden),
        (replaces, refuses(412), ConditionFailed),
        (replaces, refuses(409), ConditionFailed),
        (replaces, refuses(403), StoreForbidden),
        (replaces, NO_BUCKET, StoreRefused),
        (
            replaces,
            refuses(400, 'Provided CRC32C "a" doesn\'t match calculated CRC32C "b".'),
            StoreUnavailable,
        ),
        *((change, refuses(429), StoreBusy) for change in CHANGES),
        *((change, refuses(408), OutcomeUnknown) for change in CHANGES),
        *((change, refuses(500), OutcomeUnknown) for change in CHANGES),
        *((change, refuses(503), OutcomeUnknown) for change in CHANGES),
        *((change, says(502, b"<html>a proxy</html>"), OutcomeUnknown) for change in CHANGES),
        *((change, resets, OutcomeUnknown) for change in CHANGES),
        (replaces, refuses(410), OutcomeUnknown),
        (deletes, refuses(412), ConditionFailed),
        (deletes, NO_OBJECT, ObjectMissing),
        (deletes, refuses(403), StoreForbidden),
    ],
)
def test_permanent_errors_and_every_change_are_sent_once(
    call: Call, answer: Answer, error: type[StoreError]
) -> None:
    with server(answer) as (address, seen):
        found = refusal(call, address)

    # Body and metadata of an object are two requests. The second one may be skipped.
    paths = {path.split("?")[0] for _, path, _, _ in seen}
    assert (type(found), len(seen)) == (error, len(paths))


@pytest.mark.parametrize(
    ("call", "answer", "error"),
    [
        *((read, refuses(429), StoreBusy) for read in READS),
        *((read, refuses(500), StoreUnavailable) for read in READS),
        *((read, refuses(503), StoreUnavailable) for read in READS),
        *((read, says(502, b"<html>a proxy</html>"), StoreUnavailable) for read in READS),
        *((read, resets, StoreUnavailable) for read in READS),
        (gets, breaks_off(b"bod", X_Goog_Generation=VERSION), StoreUnavailable),
        (creates, refuses(429), OutcomeUnknown),
        (creates, refuses(408), OutcomeUnknown),
        (creates, refuses(500), OutcomeUnknown),
        (creates, refuses(503), OutcomeUnknown),
        (creates, resets, OutcomeUnknown),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_a_transient_error_that_lasts_is_unavailable(
    call: Call, answer: Answer, error: type[StoreError]
) -> None:
    with server(answer) as (address, _):
        assert type(refusal(call, address)) is error


@pytest.mark.parametrize(
    "passing", [refuses(429), refuses(408), refuses(500), refuses(503), resets]
)
@pytest.mark.parametrize(
    ("call", "answer"),
    [(scans, replies(items=[])), (folders, replies(items=[])), (creates, STORED)],
)
def test_a_transient_error_is_tried_again(call: Call, answer: Answer, passing: Answer) -> None:
    with server(in_turn(passing, passing, answer)) as (address, seen):
        result(call, address)

    assert len(seen) == 3


@pytest.mark.parametrize(
    "passing", [refuses(429), refuses(503), resets, breaks_off(b"bod", X_Goog_Generation=VERSION)]
)
def test_a_read_that_fails_once_is_tried_again(passing: Answer) -> None:
    answers = in_turn(passing, holds(b"body", VERSION))
    with server(
        lambda handler: (answers if "alt=media" in handler.path else holds(b"", VERSION))(handler)
    ) as (
        address,
        _,
    ):
        assert result(gets, address).body == b"body"


def test_a_create_repeated_after_it_was_applied_is_a_failed_condition() -> None:
    with server(in_turn(refuses(503), refuses(412))) as (address, seen):
        found = refusal(creates, address)

    assert (type(found), len(seen)) == (ConditionFailed, 2)


def test_a_create_that_failed_twice_in_two_ways_is_in_doubt() -> None:
    damaged = refuses(400, 'Provided CRC32C "a" doesn\'t match calculated CRC32C "b".')
    with server(in_turn(refuses(503), damaged)) as (address, _):
        assert type(refusal(creates, address)) is OutcomeUnknown


def test_versions_leave_out_each_object_that_cannot_be_read() -> None:
    answers = {"gone": NO_OBJECT, "closed": refuses(403), "busy": refuses(401), "key": STORED}

    def versions(store: GcsStore) -> Awaitable[Any]:
        return store.versions([*answers])

    with server(by_name(answers)) as (address, seen):
        assert result(versions, address) == {"key": VERSION}
        assert len(seen) >= len(answers)


def test_messages_name_the_object_the_reason_and_the_next_step() -> None:
    with server(refuses(403, "no right to storage.objects.create")) as (address, _):
        refused_message = str(refusal(replaces, address))
    assert refused_message.startswith("key: 403")
    assert "no right to storage.objects.create: permission denied" in refused_message
    where = f"on projects/_/buckets/{BUCKET}/objects/"
    with server(refuses(403)) as (address, _):
        for call, needed in (
            (gets, f"storage.objects.get {where}key;"),
            (scans, f"storage.objects.list {where}"),
            (
                creates,
                f"storage.objects.create (and storage.objects.delete, to replace) {where}key;",
            ),
            (deletes, f"storage.objects.delete {where}key;"),
        ):
            assert f"allow these credentials {needed}" in str(refusal(call, address))
    with server(NO_BUCKET) as (address, _):
        assert f"there is no bucket {BUCKET}: create it" in str(refusal(scans, address))
    with server(refuses(404, "Not Found")) as (address, _):
        assert f"there is no bucket {BUCKET}: create it" in str(refusal(scans, address))


# ---- missing and malformed responses


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (gets, StoreUnavailable),
        (scans, StoreUnavailable),
        (creates, OutcomeUnknown),
        (replaces, StoreUnavailable),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_a_refused_connection_is_unavailable(call: Call, error: type[StoreError]) -> None:
    found = refusal(call, f"http://127.0.0.1:{free_port()}")
    assert type(found) is error
    assert str(found).startswith(("key: ", f"gs://{BUCKET}: "))


def test_a_body_with_a_wrong_checksum_is_requested_again_and_refused() -> None:
    damaged = holds(
        b"as it came", VERSION, X_Goog_Hash="crc32c=" + base64.b64encode(b"1234").decode()
    )
    with server(damaged) as (address, seen):
        assert type(refusal(gets, address)) is ObjectDamaged
    assert len(seen) >= 3


@pytest.mark.parametrize(
    ("call", "answer", "error"),
    [
        (gets, says(200, b"<html>a login page</html>"), StoreRefused),
        (gets, says(200, b"{}"), StoreRefused),
        (scans, says(200, b"<html>a login page</html>"), StoreRefused),
        (folders, says(200, b"<html>a login page</html>"), StoreRefused),
        (creates, says(200, b"<html>a login page</html>"), OutcomeUnknown),
        (replaces, says(200, b"<html>a login page</html>"), OutcomeUnknown),
        (creates, replies(name="key"), OutcomeUnknown),
        (replaces, replies(name="key"), OutcomeUnknown),
    ],
)
def test_an_answer_that_cloud_storage_never_gives(
    call: Call, answer: Answer, error: type[StoreError]
) -> None:
    with server(answer) as (address, _):
        assert type(refusal(call, address)) is error


def test_an_object_that_changes_while_it_is_read_is_read_again() -> None:
    answers = {
        "media": in_turn(holds(b"1", "1"), holds(b"2", "2")),
        "about": in_turn(holds(b"2", "2")),
    }
    with server(
        lambda handler: answers["media" if "alt=media" in handler.path else "about"](handler)
    ) as (address, _):
        stored = result(gets, address)

    assert (stored.body, stored.version) == (b"2", "2")


def test_an_object_that_changes_constantly_is_not_read() -> None:
    with server(holds(b"1", "1", described="2")) as (address, _):
        assert "repeatedly" in str(refusal(gets, address))


# ---- missing configuration


@pytest.mark.parametrize("call", [gets, scans, creates, replaces, deletes])
def test_without_credentials_nothing_is_sent(call: Call) -> None:
    found = refusal(call, None)

    assert type(found) is StoreRefused
    assert f"gs://{BUCKET}: no valid credentials" in str(found)
    assert "GOOGLE_APPLICATION_CREDENTIALS" in str(found)


def _away(message: str) -> RefreshError:
    error = RefreshError(message)
    error.__cause__ = TransportError(message)
    return error


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (TransportError("the token's server is away"), StoreUnavailable),
        (RefreshError("the token's server is busy", retryable=True), StoreUnavailable),
        (_away("the metadata server is away"), StoreUnavailable),
        (RefreshError("the account was deleted"), StoreRefused),
    ],
)
def test_a_temporarily_unavailable_token_is_not_a_refusal(
    failure: Exception, error: type[StoreError]
) -> None:
    class Bucketless:
        def bucket(self, _name: str) -> Any:
            raise failure

        def close(self) -> None:
            """Nothing was opened."""

    with opened("http://127.0.0.1:1") as store:
        store._client = Bucketless()
        with pytest.raises(StoreError) as caught:
            asyncio.run(_replace(store))

    assert type(caught.value) is error


@pytest.mark.parametrize("call", [creates, replaces])
def test_a_server_that_does_not_listen_is_named_with_the_cause(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief = gcs._BULK_RETRY.with_timeout(0.1)
    monkeypatch.setattr(gcs, "_BULK_RETRY", brief)
    port = free_port()
    found = str(refusal(call, f"http://127.0.0.1:{port}"))
    assert f"key: no connection to 127.0.0.1:{port} ([Errno 111] Connection refused): " in found


async def _replace(store: GcsStore) -> None:
    await store.replace("key", CONTENT, VERSION)


@pytest.mark.parametrize("call", [gets, creates, replaces])
def test_an_untrusted_certificate_names_the_setting_that_trusts_it(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls, certificate = self_signed(tmp_path)
    account = tmp_path / "account.json"
    account.write_text(
        json.dumps(
            {
                "type": "authorized_user",
                "client_id": "i",
                "client_secret": "s",
                "refresh_token": "r",
            }
        )
    )
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
    monkeypatch.setattr("google.oauth2.credentials.Credentials.before_request", lambda *_: None)
    with server(holds(b"body", VERSION), tls) as (address, seen):
        found = refusal(call, address)
        assert (type(found), seen) == (StoreRefused, [])
        assert "REQUESTS_CA_BUNDLE" in str(found)

        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        result(call, address)


def test_the_emulator_that_the_library_knows_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(STORED) as (address, seen):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        assert result(creates, None) == VERSION

    assert len(seen) == 1


# ---- what is sent


def _about(sent: bytes) -> dict[str, Any]:
    return json.loads(sent.split(b"\r\n\r\n")[1].split(b"\r\n")[0])


def test_a_new_object_is_sent_with_all_its_metadata() -> None:
    with server(STORED) as (address, seen):
        assert result(creates, address, "team/a") == VERSION

    [(method, path, headers, sent)] = seen
    assert (method, parse_qs(urlsplit(path).query)["ifGenerationMatch"]) == ("POST", ["0"])
    assert "Authorization" not in headers
    about = _about(sent)
    assert (about["name"], about["cacheControl"]) == ("team/a/key", "no-store")
    assert about["metadata"] == {"rebundle-name": "a%20%C3%BC"}
    assert "crc32c" in about
    assert b"content-type: text/plain\r\n\r\nbody\r\n" in sent


def test_a_change_names_the_version() -> None:
    with server(STORED) as (address, seen):
        result(replaces, address)
        result(deletes, address)

    conditions = [
        (method, parse_qs(urlsplit(path).query)["ifGenerationMatch"]) for method, path, _, _ in seen
    ]
    assert conditions == [("POST", [VERSION]), ("DELETE", [VERSION])]


@pytest.mark.parametrize("version", ["", "0", "00", "-1", "²", "1a"])
def test_a_version_in_a_foreign_form_is_not_sent(version: str) -> None:
    with server(STORED) as (address, seen):
        for call in (
            lambda store: store.replace("key", CONTENT, Version(version)),
            lambda store: store.delete("key", Version(version)),
        ):
            assert type(refusal(call, address)) is ConditionFailed

    assert seen == []


def test_metadata_of_other_tools_is_not_a_tag() -> None:
    with server(holds(b"body", VERSION)) as (address, seen):
        stored = result(gets, address, "team")

    assert (stored.body, stored.version, dict(stored.tag)) == (b"body", VERSION, {"name": "a ü"})
    assert all(unquote(urlsplit(path).path).endswith("/o/team/key") for _, path, _, _ in seen)


def test_a_listing_continues_to_the_last_page() -> None:
    def page(*names: str, **following: str) -> Answer:
        about = {"generation": VERSION, "size": "4", "timeCreated": "2026-11-23T05:00:00.000Z"}
        return replies(items=[{"name": name} | about for name in names], **following)

    answers = in_turn(
        page("team/a", "team/b", nextPageToken="to+ken"),
        page("team/team/c", "team/folder/", "team/d\ne"),
    )
    with server(answers) as (address, seen):
        listing = result(scans, address, "team")

    assert [(entry.key, entry.version, entry.size) for entry in listing] == [
        (k, VERSION, 4) for k in ("a", "b", "team/c")
    ]
    assert listing.invalid == ("d\ne",)
    assert listing[0].modified.isoformat() == "2026-11-23T05:00:00+00:00"
    first, second = (parse_qs(urlsplit(path).query) for _, path, _, _ in seen)
    assert ("pageToken" in first, first["prefix"]) == (False, ["team/"])
    assert (second["pageToken"], second["prefix"]) == (["to+ken"], ["team/"])


def test_a_closed_store_reopens() -> None:
    with server(STORED) as (address, seen), opened(address) as store:
        asyncio.run(_replace(store))
        store.close()
        asyncio.run(_replace(store))

    assert len(seen) == 2


# ---- the limit of a body


def gets_little(store: GcsStore) -> Awaitable[Any]:
    return store.get("key", max_bytes=10)


def media_is(answer: Answer) -> Answer:
    about = replies(name="key", generation=VERSION)
    return lambda handler: (answer if "alt=media" in handler.path else about)(handler)


def test_a_body_with_a_declared_length_above_the_limit_is_not_read() -> None:
    with server(media_is(breaks_off(bytes(10), X_Goog_Generation=VERSION))) as (address, seen):
        assert isinstance(refusal(gets_little, address), ObjectTooBig)
    assert len([path for _, path, *_ in seen if "alt=media" in path]) == 1


def test_a_body_without_a_declared_length_is_read_up_to_the_limit() -> None:
    written: list[int] = []
    with server(media_is(streams(written, X_Goog_Generation=VERSION))) as (address, _seen):
        assert isinstance(refusal(gets_little, address), ObjectTooBig)
    assert written[0] < 256 << 20


def test_a_body_of_exactly_the_limit_is_read_and_checked(impatient: None) -> None:
    with server(media_is(says(200, b"0123456789", X_Goog_Generation=VERSION))) as (address, _seen):
        assert result(gets_little, address).body == b"0123456789"
    with server(media_is(breaks_off(b"012345678", X_Goog_Generation=VERSION))) as (address, _seen):
        assert isinstance(refusal(gets_little, address), StoreUnavailable)
