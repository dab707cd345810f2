"""A bucket of S3, or of a server that speaks its API, through boto3. The only module that imports it.

Two clients. `bulk` reads, lists and creates, and sends again by itself what failed. `once` replaces and deletes: a
second sending of a write that was applied is answered 412, so whoever changes a key sends it once and reads back
(object-store protocol 1.4). A create that the SDK has sent twice is met by the same reading back, since nobody takes
a 412 for proof (`stores.errors`).

The version is the ETag without its quotes. On most servers that is a digest of the body alone: bodies that go A, B, A
show the same version again, another tag alone shows no change. Credentials, region,
endpoint, proxy and CA bundle are found as boto3 finds them for everyone.
"""

import base64
import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    InvalidConfigError,
    InvalidRegionError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
    TokenRetrievalError,
)

from daemon.runtime import Runtime
from daemon.stores import object_metadata
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
from daemon.stores.object_keys import by_bytes, check_folder, check_key, check_prefix, is_key
from daemon.stores.port import Content, Listed, Listing, Stored, Version

T = TypeVar("T")

CONNECTIONS: Final = 16
_CONNECT_SECONDS: Final = 3
_ONCE_SECONDS: Final = 10
_BULK_SECONDS: Final = 60
_TRIES: Final = 3
_PIECE: Final = 1 << 20

_NOT_SENT: Final = (EndpointConnectionError, ConnectTimeoutError)
_SETTINGS: Final = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
    ProfileNotFound,
    NoRegionError,
    InvalidRegionError,
    InvalidConfigError,
    ParamValidationError,
)
_INVALID: Final = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"})
_LISTING: Final = "s3:ListBucket"
_ACTIONS: Final = {
    "ListObjectsV2": _LISTING,
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "DeleteObject": "s3:DeleteObject",
}
_DAMAGED: Final = frozenset({"BadDigest", "IncompleteBody", "RequestTimeout", "XAmzContentSHA256Mismatch"})
_BUSY: Final = frozenset({"SlowDown", "TooManyRequests", "Throttling", "ThrottlingException", "RequestLimitExceeded"})


Client = Any
"""boto3 makes the methods of its clients at run time, from a description of the service."""


@dataclass(frozen=True, slots=True)
class _Clients:
    bulk: Client
    once: Client


class S3Store:
    """An ObjectStore in a bucket, below a prefix (without slashes at its ends; empty: the whole bucket).

    `quoted`: whether the server compares `If-Match` with the ETag in quotes, as AWS does, or without, as Ceph does;
    the probe finds out (`stores.probe`).
    """

    def __init__(
        self,
        bucket: str,
        prefix: str,
        runtime: Runtime,
        *,
        endpoint: str | None = None,
        region: str | None = None,
        quoted: bool = True,
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._runtime = runtime
        self._endpoint = endpoint
        self._region = region
        self._quoted = quoted
        self._clients: _Clients | None = None
        self._lock = threading.Lock()

    def unquoted(self) -> "S3Store":
        """The same bucket, for a server that compares ETags without their quotes."""
        return S3Store(
            self._bucket,
            self._prefix.rstrip("/"),
            self._runtime,
            endpoint=self._endpoint,
            region=self._region,
            quoted=False,
        )

    def close(self) -> None:
        """Give the connections back."""
        with self._lock:
            clients, self._clients = self._clients, None
        for client in (clients.bulk, clients.once) if clients else ():
            client.close()

    # ---- reading

    async def get(self, key: str, *, most_bytes: int | None = None) -> Stored:
        """The object. Raises ObjectMissing."""
        check_key(key)
        return await self._calling(key, _unread, self._get, key, most_bytes)

    async def scan(self, prefix: str) -> Listing:
        """All objects whose key starts with `prefix`, sorted by the key's bytes."""
        return await self._calling(self._told(prefix), _unread, self._scan, check_prefix(prefix))

    async def folders(self, prefix: str) -> Sequence[str]:
        """The next parts of the keys below the folder `prefix`, sorted."""
        return await self._calling(self._told(prefix), _unread, self._folders, check_folder(prefix))

    def _told(self, prefix: str) -> str:
        return prefix or f"s3://{self._bucket}"

    def _get(self, clients: _Clients, key: str, most_bytes: int | None) -> Stored:
        for _ in range(_TRIES - 1):
            # The SDK sends a request again that failed, and not one whose body was damaged on its way.
            with contextlib.suppress(FlexibleChecksumError):
                return self._read(clients, key, most_bytes)
        return self._read(clients, key, most_bytes)

    def _read(self, clients: _Clients, key: str, most_bytes: int | None) -> Stored:
        answer = clients.bulk.get_object(Bucket=self._bucket, Key=self._prefix + key)
        # Not `with` the body itself: that is the bare stream, which checks neither length nor checksum.
        with contextlib.closing(answer["Body"]) as body:
            read = body.read() if most_bytes is None else _read_at_most(body, answer, key, most_bytes)
        return Stored(read, _version(answer), object_metadata.decoded(answer.get("Metadata", {})))

    def _scan(self, clients: _Clients, prefix: str) -> Listing:
        found = [
            Listed(key, _version(each), int(each["Size"]), _utc(each["LastModified"]))
            for page in self._pages(clients, Prefix=self._prefix + prefix)
            for each in page.get("Contents", ())
            if is_key(key := each["Key"].removeprefix(self._prefix))  # a console makes `folder/`
        ]
        return Listing(tuple(sorted(found, key=lambda each: by_bytes(each.key))))

    def _folders(self, clients: _Clients, prefix: str) -> list[str]:
        found = {
            each["Prefix"].removeprefix(self._prefix + prefix).rstrip("/")
            for page in self._pages(clients, Prefix=self._prefix + prefix, Delimiter="/")
            for each in page.get("CommonPrefixes", ())
        }
        return sorted(found - {""}, key=by_bytes)

    def _pages(self, clients: _Clients, **given: str) -> Iterator[Mapping[str, Any]]:
        going_on: dict[str, str] = {}
        while True:
            page = clients.bulk.list_objects_v2(Bucket=self._bucket, **given, **going_on)
            if "IsTruncated" not in page:
                # Any page of the web may pass for an empty listing; this every server says.
                raise _NotS3("a listing that does not tell whether it goes on")
            yield page
            if not page["IsTruncated"]:
                return
            going_on = {"ContinuationToken": page["NextContinuationToken"]}

    # ---- writing

    async def create(self, key: str, content: Content) -> Version:
        """Store a new object. Raises ConditionFailed, OutcomeUnknown."""
        check_key(key)
        return await self._calling(key, _in_doubt, self._create, key, content)

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        """Store over exactly this version. Raises ConditionFailed, ObjectMissing, OutcomeUnknown."""
        check_key(key)
        condition = self._condition(key, version)
        return await self._calling(key, _in_doubt_if_sent, self._replace, key, content, condition)

    async def delete(self, key: str, version: Version) -> None:
        """Remove exactly this version. Raises ConditionFailed, ObjectMissing, OutcomeUnknown.

        A server that ignores the condition is asked for the version first: what changes in that moment is lost there.
        """
        check_key(key)
        condition = self._condition(key, version)
        await self._calling(key, _in_doubt_if_sent, self._delete, key, version, condition)

    def _create(self, clients: _Clients, key: str, content: Content) -> Version:
        return _version(clients.bulk.put_object(**self._put(key, content), IfNoneMatch="*"))

    def _replace(self, clients: _Clients, key: str, content: Content, condition: str) -> Version:
        return _version(clients.once.put_object(**self._put(key, content), IfMatch=condition))

    def _delete(self, clients: _Clients, key: str, version: Version, condition: str) -> None:
        place = {"Bucket": self._bucket, "Key": self._prefix + key}
        if _version(clients.bulk.head_object(**place)) != version:
            raise ConditionFailed(f"object {key} is not at version {version} any more")
        try:
            clients.once.delete_object(**place, IfMatch=condition)
        except ClientError as error:
            if _code(error) != "NotImplemented":
                raise
            clients.once.delete_object(**place)

    # ---- what the server does by itself, for the probe

    async def refuses_damage(self, key: str) -> bool:
        """Whether a body that does not fit the digest sent with it is refused; else there is an object now."""
        return await self._calling(key, _in_doubt_if_sent, self._refuses_damage, check_key(key))

    async def refuses_stale_deletion(self, key: str, version: Version) -> bool:
        """Whether deleting a version that is gone is refused; else the object is gone, perhaps."""
        condition = self._condition(key, version)
        return await self._calling(key, _in_doubt_if_sent, self._refuses_stale_deletion, check_key(key), condition)

    def _refuses_damage(self, clients: _Clients, key: str) -> bool:
        sent = self._put(key, Content(b"as it was sent")) | {"Body": b"as it came on"}
        try:
            clients.once.put_object(**sent, IfNoneMatch="*")
        except ClientError as error:
            if _code(error) in _DAMAGED:
                return True
            raise
        return False

    def _refuses_stale_deletion(self, clients: _Clients, key: str, condition: str) -> bool:
        try:
            clients.once.delete_object(Bucket=self._bucket, Key=self._prefix + key, IfMatch=condition)
        except ClientError as error:
            if _code(error) == "PreconditionFailed":
                return True
            if _code(error) != "NotImplemented":
                raise
        return False

    # ---- calling

    def _put(self, key: str, content: Content) -> dict[str, Any]:
        digest = hashlib.sha256(content.body).digest()
        return {
            "Bucket": self._bucket,
            "Key": self._prefix + key,
            "Body": content.body,
            "ContentType": content.content_type,
            "CacheControl": content.cache_control,
            "Metadata": object_metadata.encoded(content.tag),
            "ChecksumSHA256": base64.b64encode(digest).decode(),
        }

    def _condition(self, key: str, version: Version) -> str:
        if not version.isascii() or not version.isprintable() or not version:
            # A server may take an empty condition for none.
            raise ConditionFailed(f"object {key} never had a version {version!r}")
        return f'"{version}"' if self._quoted else version

    async def _calling(self, what: str, failed: "_Failed", work: Callable[..., T], *args: object) -> T:
        return await self._runtime.run_in_thread(self._call, what, failed, work, *args)

    def _call(self, what: str, failed: "_Failed", work: Callable[..., T], *args: object) -> T:
        try:
            return work(self._connected(), *args)
        except ClientError as error:
            self._refused(what, error)
        except _SETTINGS as error:
            raise StoreRefused(f"s3://{self._bucket} cannot be used: {error}") from error
        except SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise StoreRefused(
                    f"s3://{self._bucket}: the server's certificate is not trusted ({error}); "
                    "AWS_CA_BUNDLE names the file of your own authority"
                ) from error
            raise failed(error, what) from error
        except (_NotS3, ValueError) as error:  # ValueError: a header or text that boto3 cannot read
            if failed is _unread:
                raise StoreRefused(
                    f"s3://{self._bucket}: no S3 server answers there, or a proxy changes its answers: {error}"
                ) from error
            raise failed(error, what) from error
        except (BotoCoreError, HTTPClientError, OSError) as error:
            raise failed(error, what) from error

    def _refused(self, what: str, error: ClientError) -> NoReturn:
        """The server has answered, and not with yes."""
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = _code(error)
        writes = error.operation_name in {"PutObject", "DeleteObject"}
        # Of a write that was sent several times the last answer tells nothing of the first sending.
        again = writes and int(error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0)) > 0
        told = f"{what}: {code}: {error.response.get('Error', {}).get('Message', '')}".rstrip(": ")
        if status == 412 or code in {"PreconditionFailed", "ConditionalRequestConflict", "OperationAborted"}:
            raise ConditionFailed(told) from error
        if again:
            raise OutcomeUnknown(told) from error
        if code == "NoSuchBucket" or (status == 404 and error.operation_name == "ListObjectsV2"):
            raise StoreRefused(f"there is no bucket {self._bucket} ({code}): make it, or name another one") from error
        if status == 404:
            raise ObjectMissing(what) from error
        if code in _BUSY or status == 429:
            raise StoreBusy(told) from error
        if code in _DAMAGED:
            raise StoreUnavailable(told) from error
        if status >= 500 and status != 501:
            raise (OutcomeUnknown(told) if writes else StoreUnavailable(told)) from error
        if status == 401 or code in _INVALID:
            raise StoreForbidden(
                f"{told}: the server does not accept these credentials: renew them, or name others (AWS_PROFILE, "
                "AWS_ACCESS_KEY_ID; `rebundle doctor` tries them)"
            ) from error
        if status == 403:
            raise StoreForbidden(
                f"{told}: the credentials may not do this: {self._missing(what, error.operation_name)}; see "
                "docs/stores.md for the permissions that are needed"
            ) from error
        raise StoreRefused(told) from error

    def _missing(self, what: str, operation: str) -> str:
        """The action that a policy has to allow, and on what."""
        action = _ACTIONS.get(operation, operation)
        if action == _LISTING:
            return f"allow them {action} on arn:aws:s3:::{self._bucket}"
        needed = f"allow them {action} on arn:aws:s3:::{self._bucket}/{self._prefix}{what}"
        # Without the permission to list, S3 answers 403 also for an object that is absent.
        return f"{needed}, and {_LISTING} on the bucket" if action == "s3:GetObject" else needed

    def _connected(self) -> _Clients:
        with self._lock:
            if self._clients is None:
                self._clients = self._made()
            return self._clients

    def _made(self) -> _Clients:
        try:
            session = boto3.session.Session()
            return _Clients(
                bulk=self._client(session, tries=_TRIES, seconds=_BULK_SECONDS),
                once=self._client(session, tries=1, seconds=_ONCE_SECONDS),
            )
        except ValueError as error:  # an endpoint that is no URL
            raise StoreRefused(f"s3://{self._bucket} cannot be used: {error}") from error

    def _client(self, session: Any, *, tries: int, seconds: float) -> Client:
        config = Config(
            retries={"mode": "standard", "total_max_attempts": tries},
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=seconds,
            max_pool_connections=CONNECTIONS,
            user_agent_extra="rebundle",
        )
        client: Client = session.client("s3", endpoint_url=self._endpoint, region_name=self._region, config=config)
        return client


class _NotS3(Exception):
    """An answer that says yes and is not the one that was asked for."""


_Failed = Callable[[Exception, str], StoreError]
"""What it means that no answer came."""


def _unread(error: Exception, what: str) -> StoreError:
    if isinstance(error, FlexibleChecksumError):
        return ObjectDamaged(f"{what} is damaged: {error}")
    return StoreUnavailable(f"{what}: {error}")


def _in_doubt(error: Exception, what: str) -> StoreError:
    """Of a request that may have been sent several times: the last failure tells nothing of the first sending."""
    return OutcomeUnknown(f"{what}: {error}")


def _in_doubt_if_sent(error: Exception, what: str) -> StoreError:
    return _unread(error, what) if isinstance(error, _NOT_SENT) else _in_doubt(error, what)


def _read_at_most(body: Any, answer: Mapping[str, Any], key: str, most_bytes: int) -> bytes:
    """A body of at most so many bytes. Raises ObjectTooBig before it reads, where the answer tells its length."""
    if int(answer.get("ContentLength", 0)) > most_bytes:
        raise ObjectTooBig(key, most_bytes)
    pieces: list[bytes] = []
    left = most_bytes
    # Up to an empty piece: only that one makes the SDK check length and checksum.
    while piece := body.read(min(left + 1, _PIECE)):
        left -= len(piece)
        if left < 0:
            raise ObjectTooBig(key, most_bytes)
        pieces.append(piece)
    return b"".join(pieces)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "Unknown"))


def _version(answer: Mapping[str, Any]) -> Version:
    if not (etag := str(answer.get("ETag", "")).strip('"')):
        raise _NotS3("an object without an ETag")
    return Version(etag)


def _utc(when: datetime) -> datetime:
    return when.astimezone(UTC)
