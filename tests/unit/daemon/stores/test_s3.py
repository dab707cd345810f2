"""How each response of an S3 server is mapped, and how often a request is sent, on a scripted
server.

Real servers show that conditions hold: tests/contract.
"""

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

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
from daemon.stores.port import Content, Version
from daemon.stores.s3 import S3Store
from tests.builders_runtime import ThreadRuntime
from tests.services.processes import free_port
from tests.support.certificates import self_signed
from tests.support.scripted_http import breaks_off, by_name, in_turn, resets, says, server, streams

TRIES = 3
VERSION = Version("0123456789abcdef")
CONTENT = Content(b"body", "text/plain", {"name": "a ü"})
STORED = says(200, ETag=f'"{VERSION}"')

Call = Callable[[S3Store], Awaitable[Any]]


def gets(store: S3Store) -> Awaitable[Any]:
    return store.get("key")


def scans(store: S3Store) -> Awaitable[Any]:
    return store.scan("")


def folders(store: S3Store) -> Awaitable[Any]:
    return store.folders("")


def creates(store: S3Store) -> Awaitable[Any]:
    return store.create("key", CONTENT)


def replaces(store: S3Store) -> Awaitable[Any]:
    return store.replace("key", CONTENT, VERSION)


def deletes(store: S3Store) -> Awaitable[Any]:
    return store.delete("key", VERSION)


READS = (gets, scans, folders)


def refuses(status: int, code: str) -> Callable[[Any], None]:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>why so</Message></Error>"
    return says(status, body.encode(), content_type="application/xml")


def deletes_answered_by(answer: Callable[[Any], None]) -> Callable[[Any], None]:
    """The read before a deletion finds the version."""
    return lambda handler: (STORED if handler.command == "HEAD" else answer)(handler)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "PROFILE",
        "DEFAULT_PROFILE",
        "ENDPOINT_URL",
        "ENDPOINT_URL_S3",
        "SESSION_TOKEN",
        "CA_BUNDLE",
        "REGION",
    ):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    # The SDK has no setting for the seconds between two tries.
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _seconds: None))


@contextmanager
def opened(address: str, prefix: str = "") -> Iterator[S3Store]:
    with (
        ThreadRuntime(2) as runtime,
        closing(S3Store("bucket", prefix, runtime, endpoint=address, region="us-east-1")) as store,
    ):
        yield store


def result(call: Call, address: str, prefix: str = "") -> Any:
    async def awaited(store: S3Store) -> Any:
        return await call(store)

    with opened(address, prefix) as store:
        return asyncio.run(awaited(store))


def refusal(call: Call, address: str) -> StoreError:
    with pytest.raises(StoreError) as caught:
        result(call, address)
    return caught.value


# ---- error responses


@pytest.mark.parametrize(
    ("call", "answer", "error", "requests"),
    [
        (gets, refuses(404, "NoSuchKey"), ObjectMissing, 1),
        *((read, refuses(404, "NoSuchBucket"), StoreRefused, 1) for read in READS),
        *((read, refuses(403, "AccessDenied"), StoreForbidden, 1) for read in READS),
        *((read, refuses(400, "InvalidRequest"), StoreRefused, 1) for read in READS),
        *((read, refuses(503, "SlowDown"), StoreBusy, TRIES) for read in READS),
        *((read, refuses(429, "TooManyRequests"), StoreBusy, TRIES) for read in READS),
        *((read, refuses(500, "InternalError"), StoreUnavailable, TRIES) for read in READS),
        *((read, refuses(503, "ServiceUnavailable"), StoreUnavailable, TRIES) for read in READS),
        *((read, says(502, b"<html>a proxy</html>"), StoreUnavailable, TRIES) for read in READS),
        *((listing, says(404, b""), StoreRefused, 1) for listing in (scans, folders)),
        (creates, refuses(412, "PreconditionFailed"), ConditionFailed, 1),
        (creates, refuses(409, "ConditionalRequestConflict"), ConditionFailed, 1),
        (creates, refuses(404, "NoSuchBucket"), StoreRefused, 1),
        (creates, refuses(403, "AccessDenied"), StoreForbidden, 1),
        (creates, refuses(400, "BadDigest"), StoreUnavailable, 1),
        (creates, refuses(501, "NotImplemented"), StoreRefused, 1),
        (creates, refuses(503, "SlowDown"), OutcomeUnknown, TRIES),
        (creates, refuses(429, "TooManyRequests"), OutcomeUnknown, TRIES),
        (creates, refuses(400, "RequestTimeout"), OutcomeUnknown, TRIES),
        (creates, refuses(500, "InternalError"), OutcomeUnknown, TRIES),
        (creates, refuses(503, "ServiceUnavailable"), OutcomeUnknown, TRIES),
        (
            creates,
            in_turn(refuses(500, "InternalError"), refuses(400, "BadDigest")),
            OutcomeUnknown,
            2,
        ),
        (
            creates,
            in_turn(refuses(500, "InternalError"), refuses(401, "ExpiredToken")),
            OutcomeUnknown,
            2,
        ),
        (
            creates,
            in_turn(refuses(500, "InternalError"), refuses(403, "AccessDenied")),
            OutcomeUnknown,
            2,
        ),
        (
            creates,
            in_turn(refuses(500, "InternalError"), refuses(404, "NoSuchBucket")),
            OutcomeUnknown,
            2,
        ),
        (
            creates,
            in_turn(refuses(500, "InternalError"), refuses(400, "InvalidRequest")),
            OutcomeUnknown,
            2,
        ),
        (
            creates,
            in_turn(refuses(500, "InternalError"), refuses(412, "PreconditionFailed")),
            ConditionFailed,
            2,
        ),
        (replaces, refuses(412, "PreconditionFailed"), ConditionFailed, 1),
        (replaces, refuses(409, "ConditionalRequestConflict"), ConditionFailed, 1),
        (replaces, refuses(409, "OperationAborted"), ConditionFailed, 1),
        (replaces, refuses(404, "NoSuchKey"), ObjectMissing, 1),
        (replaces, refuses(404, "NoSuchBucket"), StoreRefused, 1),
        (replaces, refuses(403, "AccessDenied"), StoreForbidden, 1),
        (replaces, refuses(403, "SignatureDoesNotMatch"), StoreForbidden, 1),
        (replaces, refuses(400, "BadDigest"), StoreUnavailable, 1),
        (replaces, refuses(400, "RequestTimeout"), StoreUnavailable, 1),
        (replaces, refuses(503, "SlowDown"), StoreBusy, 1),
        (replaces, refuses(429, "TooManyRequests"), StoreBusy, 1),
        (replaces, refuses(500, "InternalError"), OutcomeUnknown, 1),
        (replaces, refuses(503, "ServiceUnavailable"), OutcomeUnknown, 1),
        (replaces, says(504, b"<html>a proxy</html>"), OutcomeUnknown, 1),
        (replaces, refuses(501, "NotImplemented"), StoreRefused, 1),
    ],
)
def test_an_error_response_becomes_the_error_that_the_caller_handles(
    call: Call, answer: Callable[[Any], None], error: type[StoreError], requests: int
) -> None:
    with server(answer) as (address, seen):
        found = refusal(call, address)

    assert (type(found), len(seen)) == (error, requests)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refuses(412, "PreconditionFailed"), ConditionFailed),
        (refuses(404, "NoSuchKey"), ObjectMissing),
        (refuses(403, "AccessDenied"), StoreForbidden),
        (refuses(503, "SlowDown"), StoreBusy),
        (refuses(500, "InternalError"), OutcomeUnknown),
        (resets, OutcomeUnknown),
    ],
)
def test_a_deletion_is_sent_once(answer: Callable[[Any], None], error: type[StoreError]) -> None:
    with server(deletes_answered_by(answer)) as (address, seen):
        found = refusal(deletes, address)

    assert (type(found), [method for method, *_ in seen]) == (error, ["HEAD", "DELETE"])


def test_a_deletion_of_another_version_is_not_sent() -> None:
    with server(says(200, ETag='"another"')) as (address, seen):
        assert isinstance(refusal(deletes, address), ConditionFailed)

    assert [method for method, *_ in seen] == ["HEAD"]


def test_a_deletion_goes_without_a_condition_to_a_server_that_knows_none() -> None:
    answers = in_turn(STORED, refuses(501, "NotImplemented"), says(204))
    with server(answers) as (address, seen):
        result(deletes, address)

    conditions = [(method, headers.get("If-Match")) for method, _, headers, _ in seen]
    assert conditions == [("HEAD", None), ("DELETE", f'"{VERSION}"'), ("DELETE", None)]


def test_versions_leave_out_each_object_that_cannot_be_read() -> None:
    answers = {"gone": says(404), "closed": says(403), "busy": says(503), "key": STORED}

    def versions(store: S3Store) -> Awaitable[Any]:
        return store.versions([*answers])

    with server(by_name(answers)) as (address, seen):
        assert result(versions, address) == {"key": VERSION}
        assert len(seen) >= len(answers)


def test_messages_name_the_object_the_reason_and_the_next_step() -> None:
    with server(refuses(403, "AccessDenied")) as (address, _):
        assert str(refusal(replaces, address)).startswith(
            "key: AccessDenied: why so: permission denied"
        )
        for call, needed in (
            (replaces, "allow these credentials s3:PutObject on arn:aws:s3:::bucket/key;"),
            (
                gets,
                "allow these credentials s3:GetObject on arn:aws:s3:::bucket/key, and s3:ListBucket on the bucket;",
            ),
            (scans, "allow these credentials s3:ListBucket on arn:aws:s3:::bucket;"),
        ):
            assert needed in str(refusal(call, address))
    with server(refuses(403, "InvalidAccessKeyId")) as (address, _):
        assert "does not accept these credentials: renew them" in str(refusal(gets, address))
    with server(refuses(404, "NoSuchBucket")) as (address, _):
        assert "there is no bucket bucket (NoSuchBucket): create it" in str(refusal(scans, address))


# ---- missing and partial responses


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (gets, StoreUnavailable),
        (scans, StoreUnavailable),
        (creates, OutcomeUnknown),
        (replaces, StoreUnavailable),
    ],
)
def test_a_refused_connection_is_unavailable(call: Call, error: type[StoreError]) -> None:
    found = refusal(call, f"http://127.0.0.1:{free_port()}")
    assert type(found) is error
    assert str(found).startswith(("key: ", "s3://bucket: "))


@pytest.mark.parametrize(
    ("call", "error", "requests"),
    [
        (gets, StoreUnavailable, TRIES),
        (scans, StoreUnavailable, TRIES),
        (creates, OutcomeUnknown, TRIES),
        (replaces, OutcomeUnknown, 1),
    ],
)
def test_the_connection_is_reset_after_the_request(
    call: Call, error: type[StoreError], requests: int
) -> None:
    with server(resets) as (address, seen):
        found = refusal(call, address)

    assert (type(found), len(seen)) == (error, requests)


def test_a_body_that_breaks_off_is_not_read() -> None:
    with server(breaks_off(b"bod", ETag=f'"{VERSION}"')) as (address, _):
        assert type(refusal(gets, address)) is StoreUnavailable


def test_a_body_with_a_wrong_checksum_is_requested_again_and_refused() -> None:
    digest = base64.b64encode(hashlib.sha256(b"as it was stored").digest()).decode()
    with server(says(200, b"as it came", ETag=f'"{VERSION}"', x_amz_checksum_sha256=digest)) as (
        address,
        seen,
    ):
        assert type(refusal(gets, address)) is ObjectDamaged
    assert len(seen) >= 3


@pytest.mark.parametrize(
    ("call", "answer", "error"),
    [
        (scans, says(200, b"<html>a login page</html>"), StoreRefused),
        (scans, says(200, b"{}"), StoreUnavailable),
        (scans, says(200, b"<ListBucketResult><Contents>"), StoreUnavailable),
        (gets, says(200, b"body"), StoreRefused),
        (creates, says(200), OutcomeUnknown),
        (replaces, says(200), OutcomeUnknown),
        (creates, says(200, ETag='"e"', x_amz_object_size="many"), OutcomeUnknown),
        (replaces, says(200, ETag='"e"', x_amz_object_size="many"), OutcomeUnknown),
        (
            scans,
            says(200, b"<ListBucketResult><MaxKeys>many</MaxKeys></ListBucketResult>"),
            StoreRefused,
        ),
    ],
)
def test_an_answer_that_no_s3_server_gives(
    call: Call, answer: Callable[[Any], None], error: type[StoreError]
) -> None:
    with server(answer) as (address, _):
        assert type(refusal(call, address)) is error


# ---- missing configuration


@pytest.mark.parametrize("call", [gets, scans, creates, replaces, deletes])
def test_without_credentials_nothing_is_sent(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with server(STORED) as (address, seen):
        found = refusal(call, address)

    assert (type(found), seen) == (StoreRefused, [])
    assert "s3://bucket cannot be used: Unable to locate credentials: set AWS_" in str(found)


def test_an_unknown_profile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "absent")

    found = refusal(gets, "http://127.0.0.1:1")

    assert type(found) is StoreRefused
    assert "absent" in str(found)


def test_an_endpoint_that_is_no_url_is_named() -> None:
    found = refusal(gets, "http://")

    assert type(found) is StoreRefused


@pytest.mark.parametrize("call", [gets, creates, replaces])
def test_an_untrusted_certificate_names_the_setting_that_trusts_it(
    call: Call, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls, certificate = self_signed(tmp_path)
    with server(STORED, tls) as (address, seen):
        found = refusal(call, address)
        assert (type(found), seen) == (StoreRefused, [])
        assert "AWS_CA_BUNDLE" in str(found)

        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        result(call, address)


# ---- what is sent


def test_a_new_object_is_sent_with_all_its_metadata() -> None:
    with server(STORED) as (address, seen):
        assert result(creates, address, "team/a") == VERSION

    [(method, path, headers, body)] = seen
    assert (method, path, body) == ("PUT", "/bucket/team/a/key", b"body")
    assert headers["If-None-Match"] == "*"
    assert "If-Match" not in headers
    assert (headers["Content-Type"], headers["Cache-Control"]) == ("text/plain", "no-store")
    assert (
        headers["x-amz-checksum-sha256"]
        == base64.b64encode(hashlib.sha256(b"body").digest()).decode()
    )
    assert headers["x-amz-meta-rebundle-name"] == "a%20%C3%BC"


def test_a_replacement_names_the_version_in_the_form_that_the_server_compares() -> None:
    with server(STORED) as (address, seen):
        result(replaces, address)
        result(lambda store: replaces(store.unquoted()), address)

    assert [headers["If-Match"] for _, _, headers, _ in seen] == [f'"{VERSION}"', VERSION]
    assert not any("If-None-Match" in headers for _, _, headers, _ in seen)


@pytest.mark.parametrize("version", ["", "ü", "a\nb"])
def test_a_version_in_a_foreign_form_is_not_sent(version: str) -> None:
    with server(STORED) as (address, seen):
        found = refusal(lambda store: store.replace("key", CONTENT, Version(version)), address)

    assert (type(found), seen) == (ConditionFailed, [])


def _page(keys: list[str], following: str = "") -> Callable[[Any], None]:
    contents = "".join(
        f"<Contents><Key>{key}</Key><ETag>&quot;{VERSION}&quot;</ETag><Size>4</Size>"
        "<LastModified>2026-11-23T05:00:00.000Z</LastModified></Contents>"
        for key in keys
    )
    more = f"<IsTruncated>{'true' if following else 'false'}</IsTruncated>"
    more += f"<NextContinuationToken>{following}</NextContinuationToken>" if following else ""
    return says(200, f"<ListBucketResult>{contents}{more}</ListBucketResult>".encode())


def test_a_listing_continues_to_the_last_page() -> None:
    last = ["team/team/c", "team/folder/", "team/d&#10;e"]
    answers = in_turn(_page(["team/a", "team/b"], "to+ken"), _page(last))
    with server(answers) as (address, seen):
        listing = result(scans, address, "team")

    assert [(entry.key, entry.version, entry.size) for entry in listing] == [
        (k, VERSION, 4) for k in ("a", "b", "team/c")
    ]
    assert listing.invalid == ("d\ne",)
    assert listing[0].modified.isoformat() == "2026-11-23T05:00:00+00:00"
    first, second = (parse_qs(urlsplit(path).query) for _, path, _, _ in seen)
    assert ("continuation-token" in first, first["prefix"]) == (False, ["team/"])
    assert (second["continuation-token"], second["prefix"]) == (["to+ken"], ["team/"])


def test_metadata_of_other_tools_is_not_a_tag() -> None:
    headers = {
        "ETag": f'"{VERSION}"',
        "x-amz-meta-mtime": "1",
        "x-amz-meta-rebundle-name": "a%20%C3%BC",
    }
    with server(says(200, b"body", **headers)) as (address, _):
        stored = result(gets, address)

    assert (stored.body, stored.version, dict(stored.tag)) == (b"body", VERSION, {"name": "a ü"})


def test_a_closed_store_reopens() -> None:
    with server(STORED) as (address, seen), opened(address) as store:
        asyncio.run(_create(store))
        store.close()
        asyncio.run(_create(store))

    assert len(seen) == 2


async def _create(store: S3Store) -> None:
    await store.create("key", CONTENT)


# ---- the limit of a body


def gets_little(store: S3Store) -> Awaitable[Any]:
    return store.get("key", max_bytes=10)


def test_a_body_with_a_declared_length_above_the_limit_is_not_read() -> None:
    answer = breaks_off(bytes(10), ETag=f'"{VERSION}"')
    with server(answer) as (address, seen):
        assert isinstance(refusal(gets_little, address), ObjectTooBig)
    assert len(seen) == 1


def test_a_body_without_a_declared_length_is_read_up_to_the_limit() -> None:
    written: list[int] = []
    answer = streams(written, ETag=f'"{VERSION}"')
    with server(answer) as (address, _seen):
        assert isinstance(refusal(gets_little, address), ObjectTooBig)
    assert written[0] < 256 << 20


def test_a_body_of_exactly_the_limit_is_read_and_checked() -> None:
    with server(says(200, b"0123456789", ETag=f'"{VERSION}"')) as (address, _seen):
        assert result(gets_little, address).body == b"0123456789"
    with server(breaks_off(b"012345678", ETag=f'"{VERSION}"')) as (address, _seen):
        assert isinstance(refusal(gets_little, address), StoreUnavailable)
