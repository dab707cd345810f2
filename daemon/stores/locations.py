"""Parses the location of a bucket. Pure: it opens nothing and sends no request.

The forms are `DIR`, `file:///dir`, `s3://bucket/prefix?endpoint=URL&region=NAME` and
`gs://bucket/prefix?endpoint=URL`. Credentials are never part of a location: the SDK of each store
finds them in its usual places.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from daemon.stores.object_keys import check_key

FORMS: Final = "a directory, file:///dir, s3://bucket/prefix?endpoint=URL or gs://bucket/prefix"
_S3: Final = ("endpoint", "region")
_GCS: Final = ("endpoint",)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Directory:
    """A folder of this machine."""

    path: Path


@dataclass(frozen=True, slots=True)
class S3:
    """A bucket of S3, or of an S3-compatible server at `endpoint`."""

    bucket: str
    prefix: str
    endpoint: str | None = None
    region: str | None = None


@dataclass(frozen=True, slots=True)
class Gcs:
    """A bucket of Google Cloud Storage, or of an emulator at `endpoint`."""

    bucket: str
    prefix: str
    endpoint: str | None = None


Location = Directory | S3 | Gcs


def parse(text: str) -> Location:
    """Parse a path or URL.

    Raises:
        ValueError: it is not a location. The message continues a sentence that begins with the name
            of the setting.
    """
    if not text or "\0" in text:
        raise ValueError(f"must be {FORMS}")
    if "://" not in text:
        return Directory(Path(text))
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError(f"must be {FORMS}") from None
    if "@" in parts.netloc or parts.fragment:
        raise ValueError(
            "must hold no user, password or fragment: credentials come from the environment"
        )
    match parts.scheme:
        case "file":
            if parts.query or parts.netloc not in {"", "localhost"} or not parts.path.strip("/"):
                raise ValueError(
                    "must be file:///dir, with the path of a directory and nothing else"
                )
            return Directory(Path(unquote(parts.path)))
        case "s3":
            options = _options(parts.query, _S3)
            return S3(
                _bucket(parts.netloc),
                _prefix(parts.path),
                options.get("endpoint"),
                options.get("region"),
            )
        case "gs":
            return Gcs(
                _bucket(parts.netloc),
                _prefix(parts.path),
                _options(parts.query, _GCS).get("endpoint"),
            )
    raise ValueError(f"must be {FORMS}")


def place(location: Location, key: str) -> str:
    """Where an operator finds an object: an absolute path, or its URL."""
    match location:
        case Directory(path=path):
            return str(path.absolute() / key)
        case S3(bucket=bucket, prefix=prefix):
            return f"s3://{bucket}/{prefix}/{key}" if prefix else f"s3://{bucket}/{key}"
        case Gcs(bucket=bucket, prefix=prefix):
            return f"gs://{bucket}/{prefix}/{key}" if prefix else f"gs://{bucket}/{key}"


def spelled(endpoint: str) -> str:
    """Normalise an endpoint: host in lower case, no default port, no slash at the end.

    Text that is not an endpoint is returned unchanged.
    """
    try:
        parts = urlsplit(endpoint)
        port = parts.port
    except ValueError:
        return endpoint
    if not parts.hostname:
        return endpoint
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    suffix = "" if port in {None, _DEFAULT_PORTS.get(parts.scheme)} else f":{port}"
    return f"{parts.scheme}://{host}{suffix}{parts.path.rstrip('/')}"


def _bucket(name: str) -> str:
    if not name or ":" in name:
        raise ValueError(
            "must name a bucket after the two slashes; a server's address goes into ?endpoint=URL"
        )
    return name


def _prefix(path: str) -> str:
    prefix = unquote(path).strip("/")
    if prefix:
        try:
            check_key(prefix)
        except ValueError as error:
            raise ValueError(f"has a prefix that no object can have: {error}") from None
    return prefix


def _options(query: str, known: tuple[str, ...]) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=False) if query else []
    options = dict(pairs)
    if len(options) != len(pairs) or not set(options) <= set(known) or "" in options.values():
        raise ValueError(
            f"may have only {' and '.join(known)} after its question mark, each once and with "
            "a value"
        )
    endpoint = urlsplit(options.get("endpoint", "https://none"))
    if endpoint.scheme not in {"http", "https"} or not endpoint.hostname or "@" in endpoint.netloc:
        raise ValueError("must have an endpoint such as https://storage.example.com:9000")
    return options
