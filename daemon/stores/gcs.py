"""A bucket of Google Cloud Storage through google-cloud-storage. The only module that imports it.

The version is the object's generation, which never comes twice for an object that exists. Since its release 3 the
library sends every upload again by itself, also one without a condition; here every write has one, and what replaces
or deletes is sent once (object-store protocol 1.2, 1.4). A create may be sent several times: whoever meets its own
object reads it back.

Credentials are found as the library finds them for everyone; an endpoint without TLS is an emulator, and gets none.
"""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
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

T = TypeVar("T")

CONNECTIONS: Final = 16
_ONCE_SECONDS: Final = (3, 10)
_BULK_SECONDS: Final = (3, 60)
_READ_TRIES: Final = 5
_LISTED: Final = "items(name,generation,size,timeCreated),nextPageToken"
_NO_BUCKET: Final = re.compile(r"(?<![\w/.-])bucket( \S+)? does not exist", re.IGNORECASE)


class _NotGcs(Exception):
    """An answer that says yes and is not the one that was asked for."""


_FOREIGN: Final = (
    GoogleAPIError,
    GoogleAuthError,
    InvalidResponse,
    DataCorruption,
    requests.exceptions.RequestException,
    HTTPError,  # of the layer below, which the library lets through
    OSError,
    _NotGcs,
)


def _is_untrusted(error: Exception) -> bool:
    is_ours = isinstance(error, requests.exceptions.SSLError | TransportError)
    return is_ours and "CERTIFICATE_VERIFY_FAILED" in str(error)


def _may_pass(error: Exception) -> bool:
    # The library knows what passes by itself, but takes an untrusted certificate for that, too.
    return not _is_untrusted(error) and bool(DEFAULT_RETRY._predicate(error))  # noqa: SLF001  # it has no other name


_BULK_RETRY: Final = DEFAULT_RETRY.with_predicate(_may_pass).with_timeout(30.0)


class GcsStore:
    """An ObjectStore in a bucket, below a prefix (without slashes at its ends; empty: the whole bucket)."""

    def __init__(self, bucket: str, prefix: str, runtime: Runtime, *, endpoint: str | None = None) -> None:
        self._name = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._runtime = runtime
        self._endpoint = endpoint
        self._client: Any = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Give the connections back."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    # ---- reading

    async def get(self, key: str, *, most_bytes: int | None = None) -> Stored:
        """The object. Raises ObjectMissing."""
        check_key(key)
        for _ in range(_READ_TRIES):
            # An answer with the body has no metadata: both are asked for at once, and belong together or are not taken.
            (body, generation), (described, tag) = await both(
                self._calling(key, _unread, self._download, key, most_bytes),
                self._calling(key, _unread, self._describe, key),
            )
            if generation == described:
                return Stored(body, Version(str(generation)), tag)
        raise StoreUnavailable(f"{key} was written again and again while it was read")

    async def scan(self, prefix: str) -> Listing:
        """All objects whose key starts with `prefix`, sorted by the key's bytes."""
        return await self._listing(self._scan, check_prefix(prefix))

    async def folders(self, prefix: str) -> Sequence[str]:
        """The next parts of the keys below the folder `prefix`, sorted."""
        return await self._listing(self._folders, check_folder(prefix))

    async def _listing(self, work: Callable[..., T], prefix: str) -> T:
        try:
            return await self._calling(prefix or f"gs://{self._name}", _unread, work, prefix)
        except ObjectMissing as error:  # a prefix cannot be missing
            raise self._without_bucket() from error

    def _download(self, bucket: Any, key: str, most_bytes: int | None) -> tuple[bytes, int]:
        for _ in range(_READ_TRIES - 1):
            # The library asks again after what failed, and not for a body that was damaged on its way.
            with contextlib.suppress(DataCorruption):
                return self._body(bucket, key, most_bytes)
        return self._body(bucket, key, most_bytes)

    def _body(self, bucket: Any, key: str, most_bytes: int | None) -> tuple[bytes, int]:
        blob = bucket.blob(self._prefix + key)
        with _limited_to(key, most_bytes):
            body = blob.download_as_bytes(
                raw_download=True, single_shot_download=True, timeout=_BULK_SECONDS, retry=_BULK_RETRY
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
        found = [
            Listed(key, Version(str(blob.generation)), blob.size or 0, blob.time_created.astimezone(UTC))
            for blob in blobs
            if is_key(key := blob.name.removeprefix(self._prefix))  # a console makes `folder/`
        ]
        return Listing(tuple(sorted(found, key=lambda each: by_bytes(each.key))))

    def _folders(self, bucket: Any, prefix: str) -> list[str]:
        whole = self._prefix + prefix
        blobs = bucket.list_blobs(
            prefix=whole,
            delimiter="/",
            fields="prefixes,items(name),nextPageToken",
            timeout=_BULK_SECONDS,
            retry=_BULK_RETRY,
        )
        for _ in blobs:  # the prefixes of a page are known once it was read
            pass
        return sorted({each.removeprefix(whole).rstrip("/") for each in blobs.prefixes} - {""}, key=by_bytes)

    # ---- writing

    async def create(self, key: str, content: Content) -> Version:
        """Store a new object. Raises ConditionFailed, OutcomeUnknown."""
        check_key(key)
        return await self._calling(key, _in_doubt, self._upload, key, content, 0)

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        """Store over exactly this version. Raises ConditionFailed, OutcomeUnknown."""
        check_key(key)
        generation = _generation(key, version)
        return await self._calling(key, _in_doubt_if_sent, self._upload, key, content, generation)

    async def delete(self, key: str, version: Version) -> None:
        """Remove exactly this version. Raises ConditionFailed, ObjectMissing, OutcomeUnknown."""
        check_key(key)
        await self._calling(key, _in_doubt_if_sent, self._delete, key, _generation(key, version))

    def _upload(self, bucket: Any, key: str, content: Content, generation: int) -> Version:
        blob = bucket.blob(self._prefix + key)
        blob.cache_control = content.cache_control
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
        bucket.blob(self._prefix + key).delete(if_generation_match=generation, timeout=_ONCE_SECONDS, retry=None)

    # ---- calling

    async def _calling(self, what: str, failed: "_Failed", work: Callable[..., T], *args: object) -> T:
        return await self._runtime.run_in_thread(self._call, what, failed, work, *args)

    def _call(self, what: str, failed: "_Failed", work: Callable[..., T], *args: object) -> T:
        try:
            return work(self._connected().bucket(self._name), *args)
        except _FOREIGN as error:
            meant = self._meant(what, failed, error)
            if isinstance(meant, StoreForbidden):
                where = f"projects/_/buckets/{self._name}/objects/{self._prefix}{what}"
                meant = StoreForbidden(
                    f"{meant}: allow them {_PERMISSIONS[work.__name__]} on {where}; docs/stores.md has all permissions"
                )
            raise meant from error

    def _meant(self, what: str, failed: "_Failed", error: Exception) -> StoreError:
        """What it means that there was no yes. Of several tries the last one tells."""
        if isinstance(error, RetryError) and isinstance(error.cause, Exception):
            return self._meant(what, failed, error.cause)
        if _is_untrusted(error):
            return StoreRefused(
                f"gs://{self._name}: the server's certificate is not trusted ({error}); "
                "REQUESTS_CA_BUNDLE names the file of your own authority"
            )
        if isinstance(error, GoogleAuthError):
            return self._without_token(what, failed, error)
        if isinstance(error, GoogleAPIError | InvalidResponse):
            return self._answered(what, failed, error)
        if isinstance(error, _NotGcs | requests.exceptions.JSONDecodeError) and failed is _unread:
            return StoreRefused(
                f"gs://{self._name}: no server of Cloud Storage answers there, or a proxy changes its answers: {error}"
            )
        return failed(error, what)

    def _without_token(self, what: str, failed: "_Failed", error: GoogleAuthError) -> StoreError:
        if _is_passing(error):  # this time nothing was sent
            return _in_doubt(error, what) if failed is _in_doubt else _unread(error, what)
        return StoreRefused(f"gs://{self._name}: no credentials that work ({error})")

    def _answered(self, what: str, failed: "_Failed", error: Exception) -> StoreError:
        """What an answer that is not yes means."""
        status, message = _status_and_message(error)
        told = f"{what}: {status} {message}"
        again = failed is _in_doubt
        meant: StoreError
        match status:
            case 409 | 412:
                meant = ConditionFailed(told)
            case 404 if again or _NO_BUCKET.search(message):
                # A new object cannot be missing; what else is missing only words tell.
                meant = self._without_bucket()
            case 404:
                meant = ObjectMissing(what)
            case 429:
                meant = OutcomeUnknown(told) if again else StoreBusy(told)
            case 400 if "match calculated" in message:  # a digest: the body was damaged on its way
                meant = OutcomeUnknown(told) if again else StoreUnavailable(told)
            case 401 | 403:
                meant = StoreForbidden(f"{told}: the credentials may not do this")
            case _ if status in {408, 410} or status >= 500:  # 410: an upload in several requests was forgotten
                meant = failed(error, what)
            case _:
                meant = StoreRefused(told)
        return meant

    def _without_bucket(self) -> StoreRefused:
        return StoreRefused(f"there is no bucket {self._name}: make it, or name another one")

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = _client(self._endpoint)
            return self._client


_LIMIT: Final = ContextVar[tuple[str, int] | None]("_LIMIT", default=None)
"""Key and most bytes of the download of this thread: the library takes no limit, but its session has a hook."""


@contextlib.contextmanager
def _limited_to(key: str, most_bytes: int | None) -> Iterator[None]:
    limit = _LIMIT.set(None if most_bytes is None else (key, most_bytes))
    try:
        yield
    finally:
        _LIMIT.reset(limit)


def _limit_body(response: requests.Response, *_args: object, **_options: object) -> None:
    """Before a body is read: refuse one that says it is too big, and count one that does not say."""
    limit = _LIMIT.get()
    if limit is None or response.status_code >= 400:
        return
    key, most_bytes = limit
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > most_bytes:
        response.close()
        raise ObjectTooBig(key, most_bytes)
    read_on = response.raw.read

    def read(*_args: object, **_options: object) -> bytes:
        body: bytes = read_on(most_bytes + 1, decode_content=False)
        if len(body) > most_bytes:
            raise ObjectTooBig(key, most_bytes)
        rest: bytes = read_on(decode_content=False)  # nothing, or the error that it was cut off
        return body + rest

    response.raw.read = read


def _client(endpoint: str | None) -> Any:
    options = {"api_endpoint": endpoint} if endpoint else None
    is_emulator = endpoint is not None and endpoint.startswith("http://")
    credentials = AnonymousCredentials() if is_emulator else None  # type: ignore[no-untyped-call]  # google-auth has no types
    client = storage.Client(project=None, credentials=credentials, client_options=options)
    # It would ask for the bucket's own metadata in a thread of its own, for traces that nobody takes.
    client._bucket_metadata_cache = None  # noqa: SLF001  # the library has an environment variable alone for it
    client._http.hooks["response"].append(_read_refusal)  # noqa: SLF001  # the session that it will use
    client._http.hooks["response"].append(_limit_body)  # noqa: SLF001  # see above
    # Its session keeps ten connections and drops what is beyond; the library has no setting for it.
    for scheme in ("https://", "http://"):
        client._http.mount(scheme, HTTPAdapter(CONNECTIONS, CONNECTIONS))  # noqa: SLF001  # see above
    return client


def _read_refusal(response: requests.Response, *_args: object, **_options: object) -> None:
    # A download that is refused is not read by the library: its connection would be lost, and the reason with it.
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
"""What each call to the library needs."""

_Failed = Callable[[Exception, str], StoreError]
"""What it means that no answer came, or that the server failed."""


def _unread(error: Exception, what: str) -> StoreError:
    if isinstance(error, DataCorruption):
        return ObjectDamaged(f"{what} is damaged: {' '.join(str(error).split())}")
    return StoreUnavailable(f"{what}: {error}")


def _in_doubt(error: Exception, what: str) -> StoreError:
    """Of a request that may have been sent several times: the last failure tells nothing of the first sending."""
    return OutcomeUnknown(f"{what}: {error}")


def _in_doubt_if_sent(error: Exception, what: str) -> StoreError:
    return _unread(error, what) if _is_unsent(error) else _in_doubt(error, what)


def _is_unsent(error: Exception) -> bool:
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return True
    below = error.args[0] if error.args else None
    return isinstance(below, MaxRetryError) and isinstance(below.reason, NewConnectionError)


def _is_passing(error: GoogleAuthError) -> bool:
    # On a machine of Google's, a metadata server that does not answer comes as its own kind of error.
    return isinstance(error, TransportError) or error.retryable or isinstance(error.__cause__, TransportError)


def _status_and_message(error: Exception) -> tuple[int, str]:
    """Of an answer; in the server's own words where it has any, without the request around them."""
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
        # 0 would mean that there must be none.
        raise ConditionFailed(f"object {key} never had a version {version!r}")
    return int(version)
