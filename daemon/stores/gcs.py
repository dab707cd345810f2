"""A bucket of Google Cloud Storage through google-cloud-storage. The only module that imports it.

The version is the object's generation, which never comes twice for an object that exists. Since its release 3 the
library sends every upload again by itself, also one without a condition; here every write has one, and what replaces
or deletes is sent once (object-store protocol 1.2, 1.4). A create may be sent several times: whoever meets its own
object reads it back.

Credentials are found as the library finds them for everyone; an endpoint without TLS is an emulator, and gets none.
"""

import asyncio
import re
import threading
from collections.abc import Callable, Sequence
from datetime import UTC
from typing import Any, Final, TypeVar

import requests
from google.api_core.exceptions import ClientError, GoogleAPIError, RetryError
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError, TransportError
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY
from requests.adapters import HTTPAdapter

from daemon.runtime import Runtime
from daemon.stores import metadata
from daemon.stores.errors import (
    ConditionFailed,
    ObjectMissing,
    OutcomeUnknown,
    StoreBusy,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from daemon.stores.keys import by_bytes, check_folder, check_key, check_prefix, is_key
from daemon.stores.port import Content, Listed, Stored, Version

T = TypeVar("T")

CONNECTIONS: Final = 16
_ONCE_SECONDS: Final = (3, 10)
_BULK_SECONDS: Final = (3, 60)
_BULK_RETRY: Final = DEFAULT_RETRY.with_timeout(30.0)
_READ_TRIES: Final = 5
_LISTED: Final = "items(name,generation,size,timeCreated),nextPageToken"
_NO_BUCKET: Final = re.compile(r"(?<![\w/.-])bucket( \S+)? does not exist", re.IGNORECASE)
_DAMAGED: Final = (DataCorruption, requests.exceptions.ChunkedEncodingError)


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

    async def get(self, key: str) -> Stored:
        """The object. Raises ObjectMissing."""
        check_key(key)
        for _ in range(_READ_TRIES):
            # An answer with the body has no metadata: both are asked for at once, and belong together or are not taken.
            try:
                async with asyncio.TaskGroup() as group:
                    downloading = group.create_task(self._calling(key, _unread, self._download, key))
                    describing = group.create_task(self._calling(key, _unread, self._describe, key))
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from errors
            body, generation = downloading.result()
            described, tag = describing.result()
            if generation == described:
                return Stored(body, Version(str(generation)), tag)
        raise StoreUnavailable(f"{key} was written again and again while it was read")

    async def scan(self, prefix: str) -> Sequence[Listed]:
        """All objects whose key starts with `prefix`, sorted by the key's bytes."""
        return await self._calling(prefix, _unread, self._scan, check_prefix(prefix))

    async def folders(self, prefix: str) -> Sequence[str]:
        """The next parts of the keys below the folder `prefix`, sorted."""
        return await self._calling(prefix, _unread, self._folders, check_folder(prefix))

    def _download(self, bucket: Any, key: str) -> tuple[bytes, int]:
        blob = bucket.blob(self._prefix + key)
        body = blob.download_as_bytes(
            raw_download=True, single_shot_download=True, timeout=_BULK_SECONDS, retry=_BULK_RETRY
        )
        return body, int(blob.generation or 0)

    def _describe(self, bucket: Any, key: str) -> tuple[int, dict[str, str]]:
        blob = bucket.blob(self._prefix + key)
        blob.reload(timeout=_BULK_SECONDS, retry=_BULK_RETRY)
        return int(blob.generation), metadata.decoded(blob.metadata or {})

    def _scan(self, bucket: Any, prefix: str) -> list[Listed]:
        blobs = bucket.list_blobs(
            prefix=self._prefix + prefix, fields=_LISTED, timeout=_BULK_SECONDS, retry=_BULK_RETRY
        )
        found = [
            Listed(key, Version(str(blob.generation)), blob.size or 0, blob.time_created.astimezone(UTC))
            for blob in blobs
            if is_key(key := blob.name.removeprefix(self._prefix))  # a console makes `folder/`
        ]
        return sorted(found, key=lambda each: by_bytes(each.key))

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
        blob.metadata = metadata.encoded(content.tag)
        blob.upload_from_string(
            content.body,
            content_type=content.content_type,
            if_generation_match=generation,
            timeout=_ONCE_SECONDS if generation else _BULK_SECONDS,
            retry=None if generation else _BULK_RETRY,
            checksum="auto",
        )
        return Version(str(blob.generation))

    def _delete(self, bucket: Any, key: str, generation: int) -> None:
        bucket.blob(self._prefix + key).delete(if_generation_match=generation, timeout=_ONCE_SECONDS, retry=None)

    # ---- calling

    async def _calling(self, what: str, failed: "_Failed", work: Callable[..., T], *args: object) -> T:
        return await self._runtime.offload(self._call, what, failed, work, *args)

    def _call(self, what: str, failed: "_Failed", work: Callable[..., T], *args: object) -> T:
        try:
            return work(self._connected().bucket(self._name), *args)
        except InvalidResponse as error:
            raise self._answered(what, failed, error, error.response.status_code) from error
        except RetryError as error:
            raise failed(error.cause if isinstance(error.cause, Exception) else error, what) from error
        except (ClientError, GoogleAPIError) as error:
            raise self._answered(what, failed, error, int(getattr(error, "code", 0) or 0)) from error
        except TransportError as error:  # no token could be had: nothing was sent
            raise _unread(error, what) from error
        except GoogleAuthError as error:
            raise StoreRefused(f"gs://{self._name}: no credentials that work ({error})") from error
        except requests.exceptions.SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise StoreRefused(
                    f"gs://{self._name}: the server's certificate is not trusted ({error}); "
                    "REQUESTS_CA_BUNDLE names the file of your own authority"
                ) from error
            raise failed(error, what) from error
        except (*_DAMAGED, requests.exceptions.RequestException, OSError) as error:
            raise failed(error, what) from error

    def _answered(self, what: str, failed: "_Failed", error: Exception, status: int) -> StoreError:
        """What an answer that is not yes means."""
        told = f"{what or 'gs://' + self._name}: {error}"
        if status in {409, 412}:
            return ConditionFailed(told)
        if status == 404:
            # A new object cannot be missing. What else is missing only words tell, and a URL may have the same ones.
            is_bucket = failed is _in_doubt or _NO_BUCKET.search(str(error)) is not None
            return (
                StoreRefused(f"there is no bucket {self._name}: make it, or name another one")
                if is_bucket
                else ObjectMissing(what)
            )
        if status == 429:
            return StoreBusy(told) if failed is not _in_doubt else _in_doubt(error, what)
        if status >= 500 or status == 408:
            return failed(error, what)
        if status in {401, 403}:
            return StoreRefused(f"{told}: the credentials may not do this; docs/stores.md has the permissions needed")
        return StoreRefused(told)

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = _client(self._endpoint)
            return self._client


def _client(endpoint: str | None) -> Any:
    options = {"api_endpoint": endpoint} if endpoint else None
    is_emulator = endpoint is not None and endpoint.startswith("http://")
    credentials = AnonymousCredentials() if is_emulator else None  # type: ignore[no-untyped-call]  # google-auth has no types
    client = storage.Client(project=None, credentials=credentials, client_options=options)
    # Its session keeps ten connections and drops what is beyond; the library has no setting for it.
    for scheme in ("https://", "http://"):
        client._http.mount(scheme, HTTPAdapter(CONNECTIONS, CONNECTIONS))  # noqa: SLF001  # see above
    return client


_Failed = Callable[[Exception, str], StoreError]
"""What it means that no answer came, or that the server failed."""


def _unread(error: Exception, what: str) -> StoreError:
    return StoreUnavailable(f"{what}: {error}")


def _in_doubt(error: Exception, what: str) -> StoreError:
    """Of a request that may have been sent several times: the last failure tells nothing of the first sending."""
    return OutcomeUnknown(f"{what}: {error}")


def _in_doubt_if_sent(error: Exception, what: str) -> StoreError:
    is_unsent = isinstance(error, requests.exceptions.ConnectTimeout)
    return _unread(error, what) if is_unsent else _in_doubt(error, what)


def _generation(key: str, version: Version) -> int:
    if not version.isascii() or not version.isdecimal() or int(version) == 0:
        # 0 would mean that there must be none.
        raise ConditionFailed(f"object {key} never had a version {version!r}")
    return int(version)
