"""Object store in a bucket of S3 or of an S3-compatible server.

No other module imports boto3.

It uses two clients. `bulk` reads, lists and creates, and retries failed requests. `once` replaces
and deletes, and sends each request once: a server answers 412 to the second sending of a write that
it has applied. So callers read back after every answer except success (object-store rule 2).
The same applies to a create, which the SDK may send twice: a 412 is never proof (`stores.errors`).

The version is the ETag without its quotes. On most servers the ETag is a digest of the body alone:
it repeats after a change from A to B and back to A, and a change of the tag alone does not change
it. boto3 finds credentials, region, endpoint, proxy and CA bundle in its usual places.
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
from daemon.stores.versions import read_versions

T = TypeVar("T")

CONNECTIONS: Final = 16
_CONNECT_SECONDS: Final = 3
_ONCE_SECONDS: Final = 10
_BULK_SECONDS: Final = 60
_TRIES: Final = 3
_CHUNK_BYTES: Final = 1 << 20

_NOT_SENT_ERRORS: Final = (EndpointConnectionError, ConnectTimeoutError)
_SETTINGS_ERRORS: Final = (
    CredentialRetrievalError,
    TokenRetrievalError,
    ProfileNotFound,
    NoRegionError,
    InvalidRegionError,
    InvalidConfigError,
    ParamValidationError,
)
_INVALID_CREDENTIALS: Final = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
)
_LIST_ACTION: Final = "s3:ListBucket"
_ACTIONS: Final = {
    "ListObjectsV2": _LIST_ACTION,
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "DeleteObject": "s3:DeleteObject",
}
_DAMAGED_CODES: Final = frozenset(
    {"BadDigest", "IncompleteBody", "RequestTimeout", "XAmzContentSHA256Mismatch"}
)
_BUSY_CODES: Final = frozenset(
    {"SlowDown", "TooManyRequests", "Throttling", "ThrottlingException", "RequestLimitExceeded"}
)


Client = Any
"""boto3 creates the methods of its clients at run time, so they have no types."""


@dataclass(frozen=True, slots=True)
class _Clients:
    bulk: Client
    once: Client


class S3Store:
    """An ObjectStore in a bucket, below a prefix without slashes at its ends.

    An empty prefix means the whole bucket.

    `quoted`: whether the server compares `If-Match` with the ETag in quotes, as AWS does, or
    without quotes, as Ceph does. `stores.wrappers.etag_form` finds out.
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
        """Return a store of the same bucket, for a server that compares ETags without quotes."""
        return S3Store(
            self._bucket,
            self._prefix.rstrip("/"),
            self._runtime,
            endpoint=self._endpoint,
            region=self._region,
            quoted=False,
        )

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            clients, self._clients = self._clients, None
        for client in (clients.bulk, clients.once) if clients else ():
            client.close()

    # ---- reading

    async def get(self, key: str, *, max_bytes: int | None = None) -> Stored:
        """Read an object. Raises ObjectMissing, ObjectTooBig."""
        check_key(key)
        return await self._call_in_thread(key, _read_failed, self._get, key, max_bytes)

    async def versions(self, keys: Sequence[str]) -> Mapping[str, Version]:
        """Read the versions of some objects."""
        return await read_versions(self._current_version, keys)

    async def _current_version(self, key: str) -> Version:
        return await self._call_in_thread(key, _read_failed, self._head, key)

    async def scan(self, prefix: str) -> Listing:
        """List all objects whose key starts with `prefix`, sorted by the bytes of their keys."""
        name = self._listing_name(prefix)
        return await self._call_in_thread(name, _read_failed, self._scan, check_prefix(prefix))

    async def folders(self, prefix: str) -> Sequence[str]:
        """List the names of the folders in the folder `prefix`, sorted."""
        name = self._listing_name(prefix)
        return await self._call_in_thread(name, _read_failed, self._folders, check_folder(prefix))

    def _listing_name(self, prefix: str) -> str:
        """Return the name of a listing for messages."""
        return prefix or f"s3://{self._bucket}"

    def _get(self, clients: _Clients, key: str, max_bytes: int | None) -> Stored:
        for _ in range(_TRIES - 1):
            # The SDK retries failed requests, but not a response whose body was damaged on its way.
            with contextlib.suppress(FlexibleChecksumError):
                return self._read(clients, key, max_bytes)
        return self._read(clients, key, max_bytes)

    def _read(self, clients: _Clients, key: str, max_bytes: int | None) -> Stored:
        answer = clients.bulk.get_object(Bucket=self._bucket, Key=self._prefix + key)
        # `with` on the body itself gives the raw stream, which checks neither length nor checksum.
        with contextlib.closing(answer["Body"]) as stream:
            body = (
                stream.read()
                if max_bytes is None
                else _read_at_most(stream, answer, key, max_bytes)
            )
        return Stored(body, _version(answer), object_metadata.decoded(answer.get("Metadata", {})))

    def _head(self, clients: _Clients, key: str) -> Version:
        return _version(clients.bulk.head_object(Bucket=self._bucket, Key=self._prefix + key))

    def _scan(self, clients: _Clients, prefix: str) -> Listing:
        objects: list[Listed] = []
        invalid: list[str] = []
        for page in self._pages(clients, Prefix=self._prefix + prefix):
            for item in page.get("Contents", ()):
                key = item["Key"].removeprefix(self._prefix)
                if is_key(key):
                    modified = _utc(item["LastModified"])
                    objects.append(Listed(key, _version(item), int(item["Size"]), modified))
                elif not key.endswith("/"):
                    invalid.append(key)
        objects.sort(key=lambda listed: by_bytes(listed.key))
        return Listing(tuple(objects), invalid=tuple(sorted(invalid)))

    def _folders(self, clients: _Clients, prefix: str) -> list[str]:
        whole = self._prefix + prefix
        names = {
            item["Prefix"].removeprefix(whole).rstrip("/")
            for page in self._pages(clients, Prefix=whole, Delimiter="/")
            for item in page.get("CommonPrefixes", ())
        }
        return sorted(names - {""}, key=by_bytes)

    def _pages(self, clients: _Clients, **options: str) -> Iterator[Mapping[str, Any]]:
        continuation: dict[str, str] = {}
        while True:
            page = clients.bulk.list_objects_v2(Bucket=self._bucket, **options, **continuation)
            if "IsTruncated" not in page:
                # boto3 reads any web page as an empty listing. Every S3 server sends this field.
                raise _NotS3("a listing without IsTruncated")
            yield page
            if not page["IsTruncated"]:
                return
            continuation = {"ContinuationToken": page["NextContinuationToken"]}

    # ---- writing

    async def create(self, key: str, content: Content) -> Version:
        """Store a new object. Raises ConditionFailed, OutcomeUnknown."""
        check_key(key)
        return await self._call_in_thread(key, _outcome_unknown, self._create, key, content)

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        """Replace exactly this version. Raises ConditionFailed, ObjectMissing, OutcomeUnknown."""
        check_key(key)
        condition = self._condition(key, version)
        return await self._call_in_thread(
            key, _outcome_unknown_if_sent, self._replace, key, content, condition
        )

    async def delete(self, key: str, version: Version) -> None:
        """Delete exactly this version. Raises ConditionFailed, ObjectMissing, OutcomeUnknown.

        The version is read first, for servers that ignore the condition. On such a server, a write
        between the two requests is lost.
        """
        check_key(key)
        condition = self._condition(key, version)
        await self._call_in_thread(
            key, _outcome_unknown_if_sent, self._delete, key, version, condition
        )

    def _create(self, clients: _Clients, key: str, content: Content) -> Version:
        return _version(clients.bulk.put_object(**self._put(key, content), IfNoneMatch="*"))

    def _replace(self, clients: _Clients, key: str, content: Content, condition: str) -> Version:
        return _version(clients.once.put_object(**self._put(key, content), IfMatch=condition))

    def _delete(self, clients: _Clients, key: str, version: Version, condition: str) -> None:
        if self._head(clients, key) != version:
            raise ConditionFailed(f"object {key} is not at version {version} any more")
        place = {"Bucket": self._bucket, "Key": self._prefix + key}
        try:
            clients.once.delete_object(**place, IfMatch=condition)
        except ClientError as error:
            if _code(error) != "NotImplemented":
                raise
            clients.once.delete_object(**place)

    # ---- server behaviour without this adapter's precautions, for the probe

    async def refuses_damage(self, key: str) -> bool:
        """Whether the server refuses a body that does not match its digest.

        If not, the body is stored.
        """
        return await self._call_in_thread(
            key, _outcome_unknown_if_sent, self._refuses_damage, check_key(key)
        )

    async def refuses_stale_deletion(self, key: str, version: Version) -> bool:
        """Whether the server refuses to delete an old version.

        If not, the object may be deleted.
        """
        condition = self._condition(key, version)
        return await self._call_in_thread(
            key, _outcome_unknown_if_sent, self._refuses_stale_deletion, check_key(key), condition
        )

    def _refuses_damage(self, clients: _Clients, key: str) -> bool:
        sent = self._put(key, Content(b"as it was sent")) | {"Body": b"as it came on"}
        try:
            clients.once.put_object(**sent, IfNoneMatch="*")
        except ClientError as error:
            if _code(error) in _DAMAGED_CODES:
                return True
            raise
        return False

    def _refuses_stale_deletion(self, clients: _Clients, key: str, condition: str) -> bool:
        try:
            clients.once.delete_object(
                Bucket=self._bucket, Key=self._prefix + key, IfMatch=condition
            )
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
            "CacheControl": object_metadata.CACHE_CONTROL,
            "Metadata": object_metadata.encoded(content.tag),
            "ChecksumSHA256": base64.b64encode(digest).decode(),
        }

    def _condition(self, key: str, version: Version) -> str:
        if not version.isascii() or not version.isprintable() or not version:
            # A server may treat an empty condition as no condition.
            raise ConditionFailed(f"object {key} never had a version {version!r}")
        return f'"{version}"' if self._quoted else version

    async def _call_in_thread(
        self, what: str, on_failure: "_OnFailure", work: Callable[..., T], *args: object
    ) -> T:
        return await self._runtime.run_in_thread(self._call, what, on_failure, work, *args)

    def _call(
        self, what: str, on_failure: "_OnFailure", work: Callable[..., T], *args: object
    ) -> T:
        try:
            return work(self._shared_clients(), *args)
        except ClientError as error:
            self._raise_for_answer(what, error)
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise StoreRefused(
                f"s3://{self._bucket} cannot be used: {error}: set AWS_PROFILE, or "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for a user that may use the bucket "
                "(docs/stores.md)"
            ) from error
        except _SETTINGS_ERRORS as error:
            raise StoreRefused(f"s3://{self._bucket} cannot be used: {error}") from error
        except SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise StoreRefused(
                    f"s3://{self._bucket}: the server's certificate is not trusted ({error}); "
                    "set AWS_CA_BUNDLE to the certificate file of its authority"
                ) from error
            raise on_failure(error, what) from error
        except (
            _NotS3,
            ValueError,
        ) as error:  # ValueError: a header or text that boto3 cannot parse
            if on_failure is _read_failed:
                raise StoreRefused(
                    f"s3://{self._bucket}: this is not an S3 server, or a proxy changes its "
                    f"answers: {error}"
                ) from error
            raise on_failure(error, what) from error
        except (BotoCoreError, HTTPClientError, OSError) as error:
            raise on_failure(error, what) from error

    def _raise_for_answer(self, what: str, error: ClientError) -> NoReturn:
        """Raise the store error for an error response of the server."""
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = _code(error)
        writes = error.operation_name in {"PutObject", "DeleteObject"}
        # After several sendings of a write, the last answer says nothing about the first one.
        was_repeated = (
            writes and int(error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0)) > 0
        )
        message = f"{what}: {code}: {error.response.get('Error', {}).get('Message', '')}".rstrip(
            ": "
        )
        if status == 412 or code in {
            "PreconditionFailed",
            "ConditionalRequestConflict",
            "OperationAborted",
        }:
            raise ConditionFailed(message) from error
        if was_repeated:
            raise OutcomeUnknown(message) from error
        if code == "NoSuchBucket" or (status == 404 and error.operation_name == "ListObjectsV2"):
            raise StoreRefused(
                f"there is no bucket {self._bucket} ({code}): create it, or name another one"
            ) from error
        if status == 404:
            raise ObjectMissing(what) from error
        if code in _BUSY_CODES or status == 429:
            raise StoreBusy(message) from error
        if code in _DAMAGED_CODES:
            raise StoreUnavailable(message) from error
        if status >= 500 and status != 501:
            raise (OutcomeUnknown(message) if writes else StoreUnavailable(message)) from error
        if status == 401 or code in _INVALID_CREDENTIALS:
            raise StoreForbidden(
                f"{message}: the server does not accept these credentials: renew them, or "
                "name others "
                "(AWS_PROFILE, AWS_ACCESS_KEY_ID); `rebundle doctor` tests them"
            ) from error
        if status == 403:
            raise StoreForbidden(
                f"{message}: permission denied: "
                f"{self._missing_permission(what, error.operation_name)}; "
                "docs/stores.md lists the permissions that are needed"
            ) from error
        raise StoreRefused(message) from error

    def _missing_permission(self, what: str, operation: str) -> str:
        """Return which action a policy must allow, and on which resource."""
        action = _ACTIONS.get(operation, operation)
        if action == _LIST_ACTION:
            return f"allow these credentials {action} on arn:aws:s3:::{self._bucket}"
        needed = (
            f"allow these credentials {action} on arn:aws:s3:::{self._bucket}/{self._prefix}{what}"
        )
        # Without permission to list, S3 answers 403 also for an absent object.
        return f"{needed}, and {_LIST_ACTION} on the bucket" if action == "s3:GetObject" else needed

    def _shared_clients(self) -> _Clients:
        with self._lock:
            if self._clients is None:
                self._clients = self._new_clients()
            return self._clients

    def _new_clients(self) -> _Clients:
        try:
            session = boto3.session.Session()
            return _Clients(
                bulk=self._client(session, tries=_TRIES, seconds=_BULK_SECONDS),
                once=self._client(session, tries=1, seconds=_ONCE_SECONDS),
            )
        except ValueError as error:  # the endpoint is not a URL
            raise StoreRefused(f"s3://{self._bucket} cannot be used: {error}") from error

    def _client(self, session: Any, *, tries: int, seconds: float) -> Client:
        config = Config(
            retries={"mode": "standard", "total_max_attempts": tries},
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=seconds,
            max_pool_connections=CONNECTIONS,
            user_agent_extra="rebundle",
        )
        client: Client = session.client(
            "s3", endpoint_url=self._endpoint, region_name=self._region, config=config
        )
        return client


class _NotS3(Exception):
    """A success response without the expected content."""


_OnFailure = Callable[[Exception, str], StoreError]
"""Makes the store error for a request without an answer."""


def _read_failed(error: Exception, what: str) -> StoreError:
    if isinstance(error, FlexibleChecksumError):
        return ObjectDamaged(f"{what} is damaged: {error}")
    return StoreUnavailable(f"{what}: {error}")


def _outcome_unknown(error: Exception, what: str) -> StoreError:
    """For a request that may have been sent several times.

    The last failure says nothing about the first sending.
    """
    return OutcomeUnknown(f"{what}: {error}")


def _outcome_unknown_if_sent(error: Exception, what: str) -> StoreError:
    return (
        _read_failed(error, what)
        if isinstance(error, _NOT_SENT_ERRORS)
        else _outcome_unknown(error, what)
    )


def _read_at_most(body: Any, answer: Mapping[str, Any], key: str, max_bytes: int) -> bytes:
    """Read a body of at most so many bytes.

    Raises ObjectTooBig, before it reads if the answer has a length.
    """
    if int(answer.get("ContentLength", 0)) > max_bytes:
        raise ObjectTooBig(key, max_bytes)
    chunks: list[bytes] = []
    left = max_bytes
    # Read up to an empty chunk: only that makes the SDK check length and checksum.
    while chunk := body.read(min(left + 1, _CHUNK_BYTES)):
        left -= len(chunk)
        if left < 0:
            raise ObjectTooBig(key, max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "Unknown"))


def _version(answer: Mapping[str, Any]) -> Version:
    if not (etag := str(answer.get("ETag", "")).strip('"')):
        raise _NotS3("an object without an ETag")
    return Version(etag)


def _utc(when: datetime) -> datetime:
    return when.astimezone(UTC)
