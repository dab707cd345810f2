"""Object store in a bucket of Google Cloud Storage.

No other module imports google-cloud-storage.

The version is the object's generation, which never repeats for an existing object. Since release 3
the library retries every upload, even one without a condition. Here every write has a condition,
and a replacement or deletion is sent once (object-store rules 1 and 2). A create may be sent
several times: a caller that finds its own object reads it back.

The library finds credentials in its usual places. An endpoint without TLS is an emulator and gets
no credentials.
"""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC
from typing import Any, Final, TypeVar

import requests
from google.api_core.exceptions import GoogleAPIError, RetryError
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError, TransportError
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError

from daemon.concurrency import both
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
_ONCE_SECONDS: Final = (3, 10)
_BULK_SECONDS: Final = (3, 60)
_READ_TRIES: Final = 5
_LISTED: Final = "items(name,generation,size,timeCreated),nextPageToken"
_NO_BUCKET: Final = re.compile(r"(?<![\w/.-])bucket( \S+)? does not exist", re.IGNORECASE)


class _NotGcs(Exception):
    """A success response without the expected content."""


_LIBRARY_ERRORS: Final = (
    GoogleAPIError,
    GoogleAuthError,
    InvalidResponse,
    DataCorruption,
    requests.exceptions.RequestException,
    HTTPError,  # of urllib3: the library lets it through
    OSError,
    _NotGcs,
)


def _is_untrusted(error: Exception) -> bool:
    is_transport = isinstance(error, requests.exceptions.SSLError | TransportError)
    return is_transport and "CERTIFICATE_VERIFY_FAILED" in str(error)


def _is_retryable(error: Exception) -> bool:
    # The library decides which errors are transient, but includes an untrusted certificate.
    return not _is_untrusted(error) and bool(DEFAULT_RETRY._predicate(error))  # noqa: SLF001  # it has no other name


_BULK_RETRY: Final = DEFAULT_RETRY.with_predicate(_is_retryable).with_timeout(30.0)


class GcsStore:
    """An ObjectStore in a bucket, below a prefix without slashes at its ends.

    An empty prefix means the whole bucket.
    """

    def __init__(
        self, bucket: str, prefix: str, runtime: Runtime, *, endpoint: str | None = None
    ) -> None:
        self._name = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._runtime = runtime
        self._endpoint = endpoint
        self._client: Any = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    # ---- reading

    async def get(self, key: str, *, max_bytes: int | None = None) -> Stored:
        """Read an object. Raises ObjectMissing, ObjectTooBig."""
        check_key(key)
        for _ in range(_READ_TRIES):
            # The response with the body has no metadata, so both are requested at the same time.
            # They are used only if they have the same generation.
            (body, body_generation), (tag_generation, tag) = await both(
                self._call_in_thread(key, _read_failed, self._download, key, max_bytes),
                self._call_in_thread(key, _read_failed, self._describe, key),
            )
            if body_generation == tag_generation:
                return Stored(body, Version(str(body_generation)), tag)
        raise StoreUnavailable(f"{key} was written repeatedly while it was read")

    async def versions(self, keys: Sequence[str]) -> Mapping[str, Version]:
        """Read the versions of some objects."""
        return await read_versions(self._current_version, keys)

    async def _current_version(self, key: str) -> Version:
        generation, _ = await self._call_in_thread(key, _read_failed, self._describe, key)
        return Version(str(generation))

    async def scan(self, prefix: str) -> Listing:
        """List all objects whose key starts with `prefix`, sorted by the bytes of their keys."""
        return await self._listing(self._scan, check_prefix(prefix))

    async def folders(self, prefix: str) -> Sequence[str]:
        """List the names of the folders in the folder `prefix`, sorted."""
        return await self._listing(self._folders, check_folder(prefix))

    async def _listing(self, work: Callable[..., T], prefix: str) -> T:
        try:
            return await self._call_in_thread(
                prefix or f"gs://{self._name}", _read_failed, work, prefix
            )
        except ObjectMissing as error:  # a prefix cannot be missing, so it is the bucket
            raise self._no_bucket() from error

    def _download(self, bucket: Any, key: str, max_bytes: int | None) -> tuple[bytes, int]:
        for _ in range(_READ_TRIES - 1):
            # The library does not retry a response whose body was damaged on its way.
            with contextlib.suppress(DataCorruption):
                return self._body(bucket, key, max_bytes)
        return self._body(bucket, key, max_bytes)

    def _body(self, bucket: Any, key: str, max_bytes: int | None) -> tuple[bytes, int]:
        blob = bucket.blob(self._prefix + key)
        with _limited_to(key, max_bytes):
            body = blob.download_as_bytes(
                raw_download=True,
                single_shot_download=True,
                timeout=_BULK_SECONDS,
                retry=_BULK_RETRY,
            )
        return body, _generation_of(blob)

    def _describe(self, bucket: Any, key: str) -> tuple[int, dict[str, str]]:
        blob = bucket.blob(self._prefix + key)
        blob.reload(timeout=_BULK_SECONDS, retry=_BULK_RETRY)
        return _generation_of(blob), object_metadata.decoded(blob.metadata or {})

    def _scan(self, bucket: Any, prefix: str) -> Listing:
        blobs = bucket.list_blobs(
            prefix=self._prefix + prefix, fields=_LISTED, timeout=_BULK_SECONDS, retry=_BULK_RETRY
        )
        objects: list[Listed] = []
        invalid: list[str] = []
        for blob in blobs:
            key = blob.name.removeprefix(self._prefix)
            if is_key(key):
                version = Version(str(blob.generation))
                objects.append(
                    Listed(key, version, blob.size or 0, blob.time_created.astimezone(UTC))
                )
            elif not key.endswith("/"):
                invalid.append(key)
        objects.sort(key=lambda listed: by_bytes(listed.key))
        return Listing(tuple(objects), invalid=tuple(sorted(invalid)))

    def _folders(self, bucket: Any, prefix: str) -> list[str]:
        whole = self._prefix + prefix
        blobs = bucket.list_blobs(
            prefix=whole,
            delimiter="/",
            fields="prefixes,items(name),nextPageToken",
            timeout=_BULK_SECONDS,
            retry=_BULK_RETRY,
        )
        for _ in blobs:  # the library knows the prefixes only after it has read all pages
            pass
        names = {folder.removeprefix(whole).rstrip("/") for folder in blobs.prefixes}
        return sorted(names - {""}, key=by_bytes)

    # ---- writing

    async def create(self, key: str, content: Content) -> Version:
        """Store a new object. Raises ConditionFailed, OutcomeUnknown."""
        check_key(key)
        return await self._call_in_thread(key, _outcome_unknown, self._upload, key, content, 0)

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        """Replace exactly this version. Raises ConditionFailed, OutcomeUnknown."""
        check_key(key)
        generation = _generation(key, version)
        return await self._call_in_thread(
            key, _outcome_unknown_if_sent, self._upload, key, content, generation
        )

    async def delete(self, key: str, version: Version) -> None:
        """Delete exactly this version. Raises ConditionFailed, ObjectMissing, OutcomeUnknown."""
        check_key(key)
        await self._call_in_thread(
            key, _outcome_unknown_if_sent, self._delete, key, _generation(key, version)
        )

    def _upload(self, bucket: Any, key: str, content: Content, generation: int) -> Version:
        blob = bucket.blob(self._prefix + key)
        blob.cache_control = object_metadata.CACHE_CONTROL
        blob.metadata = object_metadata.encoded(content.tag)
        blob.upload_from_string(
            content.body,
            content_type=content.content_type,
            if_generation_match=generation,
            timeout=_ONCE_SECONDS if generation else _BULK_SECONDS,
            retry=None if generation else _BULK_RETRY,
            checksum="auto",
        )
        return Version(str(_generation_of(blob)))

    def _delete(self, bucket: Any, key: str, generation: int) -> None:
        bucket.blob(self._prefix + key).delete(
            if_generation_match=generation, timeout=_ONCE_SECONDS, retry=None
        )

    # ---- calling

    async def _call_in_thread(
        self, what: str, on_failure: "_OnFailure", work: Callable[..., T], *args: object
    ) -> T:
        return await self._runtime.run_in_thread(self._call, what, on_failure, work, *args)

    def _call(
        self, what: str, on_failure: "_OnFailure", work: Callable[..., T], *args: object
    ) -> T:
        try:
            return work(self._shared_client().bucket(self._name), *args)
        except _LIBRARY_ERRORS as error:
            classified = self._classify(what, on_failure, error)
            if isinstance(classified, StoreForbidden):
                permission = _PERMISSIONS[work.__name__]
                resource = f"projects/_/buckets/{self._name}/objects/{self._prefix}{what}"
                classified = StoreForbidden(
                    f"{classified}: allow these credentials {permission} on {resource}; "
                    "docs/stores.md lists them all"
                )
            raise classified from error

    def _classify(self, what: str, on_failure: "_OnFailure", error: Exception) -> StoreError:
        """Return the store error for a failed call. After several tries the last error counts."""
        if isinstance(error, RetryError) and isinstance(error.cause, Exception):
            return self._classify(what, on_failure, error.cause)
        if _is_untrusted(error):
            return StoreRefused(
                f"gs://{self._name}: the server's certificate is not trusted ({error}); "
                "set REQUESTS_CA_BUNDLE to the certificate file of its authority"
            )
        if isinstance(error, GoogleAuthError):
            return self._classify_auth_error(what, on_failure, error)
        if isinstance(error, GoogleAPIError | InvalidResponse):
            return self._classify_answer(what, on_failure, error)
        if (
            isinstance(error, _NotGcs | requests.exceptions.JSONDecodeError)
            and on_failure is _read_failed
        ):
            return StoreRefused(
                f"gs://{self._name}: this is not a server of Cloud Storage, or a proxy changes its "
                f"answers: {error}"
            )
        return on_failure(error, what)

    def _classify_auth_error(
        self, what: str, on_failure: "_OnFailure", error: GoogleAuthError
    ) -> StoreError:
        if _is_transient(error):  # in this try nothing was sent
            return (
                _outcome_unknown(error, what)
                if on_failure is _outcome_unknown
                else _read_failed(error, what)
            )
        return StoreRefused(
            f"gs://{self._name}: no valid credentials ({error}): name a key file in "
            "GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`"
        )

    def _classify_answer(self, what: str, on_failure: "_OnFailure", error: Exception) -> StoreError:
        """Return the store error for an error response of the server."""
        status, message = _status_and_message(error)
        text = f"{what}: {status} {message}"
        was_repeated = on_failure is _outcome_unknown
        result: StoreError
        match status:
            case 409 | 412:
                result = ConditionFailed(text)
            case 404 if was_repeated or _NO_BUCKET.search(message):
                # A new object cannot be missing. Otherwise only the message names what is missing.
                result = self._no_bucket()
            case 404:
                result = ObjectMissing(what)
            case 429:
                result = OutcomeUnknown(text) if was_repeated else StoreBusy(text)
            case 400 if (
                "match calculated" in message
            ):  # of digests: the body was damaged on its way
                result = OutcomeUnknown(text) if was_repeated else StoreUnavailable(text)
            case 401 | 403:
                result = StoreForbidden(f"{text}: permission denied")
            case _ if (
                status in {408, 410} or status >= 500
            ):  # 410: the session of a resumable upload is gone
                result = on_failure(error, what)
            case _:
                result = StoreRefused(text)
        return result

    def _no_bucket(self) -> StoreRefused:
        return StoreRefused(f"there is no bucket {self._name}: create it, or name another one")

    def _shared_client(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = _client(self._endpoint)
            return self._client


_LIMIT: Final = ContextVar[tuple[str, int] | None]("_LIMIT", default=None)
"""Key and size limit of the download of this thread.

The library has no parameter for a limit, but its session has a hook.
"""


@contextlib.contextmanager
def _limited_to(key: str, max_bytes: int | None) -> Iterator[None]:
    limit = _LIMIT.set(None if max_bytes is None else (key, max_bytes))
    try:
        yield
    finally:
        _LIMIT.reset(limit)


def _limit_body(response: requests.Response, *_args: object, **_options: object) -> None:
    """Limit the size of a response body before it is read.

    If the headers have a length it is checked. Otherwise the bytes are counted while they are read.
    """
    limit = _LIMIT.get()
    if limit is None or response.status_code >= 400:
        return
    key, max_bytes = limit
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > max_bytes:
        response.close()
        raise ObjectTooBig(key, max_bytes)
    read_raw = response.raw.read

    def read(*_args: object, **_options: object) -> bytes:
        body: bytes = read_raw(max_bytes + 1, decode_content=False)
        if len(body) > max_bytes:
            raise ObjectTooBig(key, max_bytes)
        # Empty at the end of the body; an error if the connection was cut.
        rest: bytes = read_raw(decode_content=False)
        return body + rest

    response.raw.read = read


def _client(endpoint: str | None) -> Any:
    options = {"api_endpoint": endpoint} if endpoint else None
    is_emulator = endpoint is not None and endpoint.startswith("http://")
    credentials = AnonymousCredentials() if is_emulator else None  # type: ignore[no-untyped-call]  # google-auth has no types
    client = storage.Client(project=None, credentials=credentials, client_options=options)
    # The cache would request the bucket's metadata in a background thread, for traces that are not
    # used. The library has only an environment variable to turn that off.
    client._bucket_metadata_cache = None  # noqa: SLF001  # see above
    client._http.hooks["response"].append(_read_refusal)  # noqa: SLF001  # the session that it uses
    client._http.hooks["response"].append(_limit_body)  # noqa: SLF001  # see above
    # The session keeps ten connections and drops more. The library has no setting for this number.
    for scheme in ("https://", "http://"):
        client._http.mount(scheme, HTTPAdapter(CONNECTIONS, CONNECTIONS))  # noqa: SLF001  # see above
    return client


def _read_refusal(response: requests.Response, *_args: object, **_options: object) -> None:
    # The library does not read the body of a refused
    # download: the connection and the reason would be lost.
    if response.status_code >= 400:
        response.content  # noqa: B018  # reads


_PERMISSIONS: Final = {
    "_download": "storage.objects.get",
    "_describe": "storage.objects.get",
    "_scan": "storage.objects.list",
    "_folders": "storage.objects.list",
    "_upload": "storage.objects.create (and storage.objects.delete, to replace)",
    "_delete": "storage.objects.delete",
}
"""The permission that each method needs, by the name of the method."""

_OnFailure = Callable[[Exception, str], StoreError]
"""Makes the store error for a request without an answer, or with a failure of the server."""


def _read_failed(error: Exception, what: str) -> StoreError:
    if isinstance(error, DataCorruption):
        return ObjectDamaged(f"{what} is damaged: {' '.join(str(error).split())}")
    return StoreUnavailable(f"{what}: {_text(error)}")


def _outcome_unknown(error: Exception, what: str) -> StoreError:
    """For a request that may have been sent several times.

    The last failure says nothing about the first sending.
    """
    return OutcomeUnknown(f"{what}: {_text(error)}")


def _text(error: Exception) -> str:
    """The message of a failure; address and cause if there was no connection."""
    below = error.args[0] if error.args else None
    if not isinstance(below, MaxRetryError) or below.reason is None:
        return str(error)
    cause = str(below.reason.args[-1]).rpartition("new connection: ")[2]
    host, port = below.pool.host, below.pool.port
    return (
        f"no connection to {host}:{port} ({cause}): check ?endpoint= of the bucket, the network, "
        "and whether the server runs"
    )


def _outcome_unknown_if_sent(error: Exception, what: str) -> StoreError:
    return _read_failed(error, what) if _is_unsent(error) else _outcome_unknown(error, what)


def _is_unsent(error: Exception) -> bool:
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return True
    below = error.args[0] if error.args else None
    return isinstance(below, MaxRetryError) and isinstance(below.reason, NewConnectionError)


def _is_transient(error: GoogleAuthError) -> bool:
    # On a machine of Google Cloud, an unreachable metadata server raises its own error class.
    return (
        isinstance(error, TransportError)
        or error.retryable
        or isinstance(error.__cause__, TransportError)
    )


def _status_and_message(error: Exception) -> tuple[int, str]:
    """Return status and message of an error response; the server's own message if it has one."""
    response: Any = getattr(error, "response", None)
    try:
        return response.status_code, str(response.json()["error"]["message"])
    except (AttributeError, ValueError, KeyError, TypeError):
        return int(getattr(error, "code", 0) or getattr(response, "status_code", 0)), str(error)


def _generation_of(blob: Any) -> int:
    try:
        return int(blob.generation)
    except (TypeError, ValueError):
        raise _NotGcs("an object without a generation") from None


def _generation(key: str, version: Version) -> int:
    if not version.isascii() or not version.isdecimal() or int(version) == 0:
        # Generation 0 is the condition that the object does not exist.
        raise ConditionFailed(f"object {key} never had a version {version!r}")
    return int(version)
