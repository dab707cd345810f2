"""Decodes CloudEvents 1.0 from bytes. Pure.

It reads the three HTTP modes (structured, binary, batch), which the content type alone selects, and
the forms that a file may have. It validates the envelope and reports all problems of a request
together. `schemas` validates the data, and the caller decides which types are known.

The public SDK is not used: it generates a missing id, accepts NaN, duplicate keys and version 0.3,
and raises many kinds of exception.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Final, NoReturn
from urllib.parse import unquote_to_bytes

from events import strict_json
from events.errors import InvalidEvent, Problem, UnsupportedContentType
from events.model import Event
from events.strict_json import MAX_PROBLEMS, below, described

STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"

_JSON: Final = re.compile(r"application/json|[a-z0-9!#$&^_.-]+/[a-z0-9!#$&^_.-]+\+json")
_NAME: Final = re.compile(r"[a-z0-9]{1,64}")
_URI: Final = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*:(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+"
)
_TIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}):([0-9]{2})(?:\.[0-9]{1,12})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_ENVELOPE: Final = frozenset(
    {"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"}
)
_MAX_LENGTHS: Final = {"id": 256, "source": 1024, "type": 256, "subject": 1024}


@dataclass(frozen=True, slots=True)
class DecodingLimits:
    """The limits of one request or file."""

    max_bytes: int = 1 << 20
    """The size of the body. The same as Kafka's default for a message."""
    max_depth: int = 32
    """Levels of nesting of an event in structured form, including the envelope."""
    max_events: int = 100
    """The number of events in a batch."""


DEFAULT_LIMITS: Final = DecodingLimits()
FILE_LIMITS: Final = DecodingLimits(max_bytes=64 << 20, max_events=100_000)
"""The limits of a file; its sender splits it into requests."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The events of one HTTP request."""

    events: tuple[Event, ...]
    batch: bool
    """Whether it was a batch. A batch may also hold one event, or none."""


DataValidator = Callable[[object, object], Sequence[Problem]]
"""Returns the problems of an event's data, from its type and its data.

It is called for an event with a faulty envelope, so that all problems are reported together.
"""


def decode_http(
    headers: Iterable[tuple[bytes, bytes]],
    body: bytes,
    limits: DecodingLimits = DEFAULT_LIMITS,
    validate_data: DataValidator | None = None,
) -> Decoded:
    """The events of a request. Header names may have any case.

    Raises:
        UnsupportedContentType: the content type selects none of the three modes (415).
        InvalidEvent: with all problems; in a batch, paths start with the index, as in `$[3].id`.
    """
    lower_case = [(name.lower(), value) for name, value in headers]
    media_type = _media_type([value for name, value in lower_case if name == b"content-type"])
    if media_type == STRUCTURED:
        return Decoded((decode_structured(body, limits, validate_data),), batch=False)
    if media_type == BATCH:
        return Decoded(_decode_batch(body, limits, validate_data), batch=True)
    if _JSON.fullmatch(media_type) and not media_type.startswith("application/cloudevents"):
        return Decoded((_decode_binary(lower_case, body, limits, validate_data),), batch=False)
    expected = f"must be {STRUCTURED}, {BATCH}, or application/json with ce- headers"
    raise UnsupportedContentType(f"Content-Type {described(media_type)}: {expected}")


def decode_structured(
    body: bytes, limits: DecodingLimits = DEFAULT_LIMITS, validate_data: DataValidator | None = None
) -> Event:
    """The event in `body`, which has the structured JSON form.

    Raises:
        InvalidEvent: with all problems.
    """
    return _event(
        strict_json.loads(body, max_bytes=limits.max_bytes, max_depth=limits.max_depth),
        validate_data,
    )


def decode_many(
    text: bytes, limits: DecodingLimits = FILE_LIMITS, validate_data: DataValidator | None = None
) -> tuple[Event, ...]:
    """The events of a file: one event, an array of events, or one event per line.

    Raises:
        InvalidEvent: with all problems; with one event per line, paths start with the line, as in
            `line 3 $.id`.
    """
    if text.lstrip().startswith(b"["):
        return _decode_batch(text, limits, validate_data)
    numbered = enumerate(text.splitlines(), start=1)
    lines = [(f"line {number} $", line) for number, line in numbered if line.strip()]
    if len(lines) > 1 and _is_json(lines[0][1]):
        return _decode_all(
            (path, partial(decode_structured, line, limits, validate_data)) for path, line in lines
        )
    return (decode_structured(text, limits, validate_data),)


def _is_json(line: bytes) -> bool:
    """Whether the first line of a file is a complete JSON value: then each line is an event."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _decode_batch(
    body: bytes, limits: DecodingLimits, validate_data: DataValidator | None
) -> tuple[Event, ...]:
    batch = strict_json.loads(body, max_bytes=limits.max_bytes, max_depth=limits.max_depth + 1)
    if not isinstance(batch, list):
        raise InvalidEvent(Problem("$", "must be a list of events", described(batch)))
    if len(batch) > limits.max_events:
        expected = f"must hold at most {limits.max_events} events"
        raise InvalidEvent(Problem("$", expected, f"{len(batch)} events"))
    return _decode_all(
        (f"$[{index}]", partial(_event, value, validate_data)) for index, value in enumerate(batch)
    )


def _decode_all(parts: Iterable[tuple[str, Callable[[], Event]]]) -> tuple[Event, ...]:
    """The result of every decoder; the path of a part is put before the paths of its problems."""
    events: list[Event] = []
    problems: list[Problem] = []
    for path, decode in parts:
        try:
            events.append(decode())
        except InvalidEvent as error:
            problems += _problems_below(path, error)
            if len(problems) >= MAX_PROBLEMS:
                break
    if problems:
        raise InvalidEvent(*problems[:MAX_PROBLEMS])
    return tuple(events)


def _decode_binary(
    headers: list[tuple[bytes, bytes]],
    body: bytes,
    limits: DecodingLimits,
    validate_data: DataValidator | None,
) -> Event:
    attributes, problems = _header_attributes(headers)
    if not attributes and not problems:
        expected = (
            f"must be a CloudEvent: Content-Type {STRUCTURED}, "
            "or application/json with the headers ce-specversion, ce-id, ce-source and ce-type"
        )
        raise InvalidEvent(Problem("$", expected))
    try:
        # The event is stored in structured form, where the envelope adds one level.
        max_depth = limits.max_depth - 1
        attributes["data"] = strict_json.loads(
            body, max_bytes=limits.max_bytes, max_depth=max_depth
        )
    except InvalidEvent as error:
        problems += _problems_below("$.data", error)
        attributes["data"], validate_data = {}, None
    if problems:
        _refuse([*problems, *_problems(attributes)], attributes, validate_data)
    return _event(attributes, validate_data)


def _header_attributes(headers: list[tuple[bytes, bytes]]) -> tuple[dict[str, Any], list[Problem]]:
    attributes: dict[str, Any] = {}
    problems: list[Problem] = []
    for header, value in headers:
        if not header.startswith(b"ce-"):
            continue
        name = header[3:].decode("latin-1")
        path = below("$", name)
        if name in attributes:
            problems.append(Problem(path, "must be given once, as one header"))
        elif name in {"data", "datacontenttype"}:
            expected = "must not be a header: the body is the data, Content-Type its type"
            problems.append(Problem(path, expected))
        else:
            try:
                attributes[name] = _header_text(value)
            except UnicodeDecodeError:
                found = described(value.decode("latin-1"))
                problems.append(Problem(path, "must be percent-encoded UTF-8", found))
    return attributes, problems


def _header_text(value: bytes) -> str:
    """The text of a header: a quoted string is unquoted, then percent-decoded once.

    From the HTTP protocol binding, 3.1.3.2.
    """
    value = value.strip(b" \t")
    if len(value) > 1 and value.startswith(b'"') and value.endswith(b'"'):
        value = re.sub(rb"\\(.)", rb"\1", value[1:-1])
    return unquote_to_bytes(value).decode("utf-8")


def _media_type(content_types: list[bytes]) -> str:
    if len(content_types) != 1:
        raise UnsupportedContentType("a request needs one Content-Type header")
    media_type, problem = _parsed_media_type(content_types[0].decode("latin-1"))
    if problem:
        raise UnsupportedContentType(problem)
    return media_type


def _parsed_media_type(text: str) -> tuple[str, str]:
    """The media type in lower case, and the problem with its charset or an empty text."""
    media_type, *parameters = (part.strip().lower() for part in text.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "charset" and value.strip('"') not in {"utf-8", "utf8", "us-ascii"}:
            return media_type, f"must be UTF-8: charset {described(value)} is not supported"
    return media_type, ""


def _problems_below(path: str, error: InvalidEvent) -> Iterator[Problem]:
    """The problems of a part, with their paths below `path`."""
    for problem in error.problems:
        yield replace(problem, path=path + problem.path.removeprefix("$"))


def _event(value: Any, validate_data: DataValidator | None) -> Event:
    if not isinstance(value, dict):
        raise InvalidEvent(Problem("$", "must be an event: a JSON object", described(value)))
    # In the JSON format, null means that an attribute is not set.
    attributes = {
        name: attribute
        for name, attribute in value.items()
        if attribute is not None or name == "data"
    }
    problems = list(_problems(attributes))
    if problems:
        _refuse(problems, attributes, validate_data)
    return Event(
        id=attributes["id"],
        source=attributes["source"],
        type=attributes["type"],
        data=attributes["data"],
        subject=attributes.get("subject"),
        time=attributes.get("time"),
        extensions={name: attributes[name] for name in attributes if name not in _ENVELOPE},
    )


def _refuse(
    problems: Sequence[Problem], attributes: Mapping[str, Any], validate_data: DataValidator | None
) -> NoReturn:
    """Raises InvalidEvent with the problems of the envelope and of the data."""
    of_data = validate_data(attributes.get("type"), attributes.get("data")) if validate_data else ()
    raise InvalidEvent(*[*problems, *of_data][:MAX_PROBLEMS])


def _problems(attributes: Mapping[str, Any]) -> Iterator[Problem]:
    yield from _envelope_problems(attributes)
    yield from _data_problems(attributes)
    for name, attribute in attributes.items():
        if name not in _ENVELOPE:
            yield from _extension_problems(name, attribute)


def _envelope_problems(attributes: Mapping[str, Any]) -> Iterator[Problem]:
    version = attributes.get("specversion")
    if version != "1.0":
        found = "" if version is None else described(version)
        yield Problem("$.specversion", 'must be "1.0"', found)
    for name in ("id", "source", "type"):
        if name not in attributes:
            yield Problem(f"$.{name}", "is required")
    for name in ("id", "source", "type", "subject"):
        if name in attributes:
            yield from _text_problems(name, attributes[name])
    if "time" in attributes and not _is_time(attributes["time"]):
        expected = "must be a time with its zone, such as 2026-11-22T10:00:00Z (RFC 3339)"
        yield Problem("$.time", expected, described(attributes["time"]))


def _text_problems(name: str, value: Any) -> Iterator[Problem]:
    max_length = _MAX_LENGTHS[name]
    if (
        not isinstance(value, str)
        or not value
        or len(value) > max_length
        or not value.isprintable()
    ):
        expected = f"must be text of 1 to {max_length} printable characters"
        yield Problem(f"$.{name}", expected, described(value))
    elif name == "source" and not _URI.fullmatch(value):
        expected = "must be an absolute URI, such as https://registry.example.com/"
        yield Problem("$.source", expected, described(value))


def _data_problems(attributes: Mapping[str, Any]) -> Iterator[Problem]:
    if "data_base64" in attributes:
        yield Problem("$.data_base64", "must be absent: data is a JSON object")
    elif "data" not in attributes and "dataref" in attributes:
        yield Problem("$.data", "is required: dataref is not followed, send the data itself")
    elif "data" not in attributes:
        yield Problem("$.data", "is required")
    elif not isinstance(attributes["data"], dict):
        yield Problem("$.data", "must be an object", described(attributes["data"]))
    if "datacontenttype" in attributes:
        declared = attributes["datacontenttype"]
        media_type, problem = (
            _parsed_media_type(declared) if isinstance(declared, str) else ("", "")
        )
        if problem or not _JSON.fullmatch(media_type):
            yield Problem(
                "$.datacontenttype", problem or "must be application/json", described(declared)
            )


def _extension_problems(name: str, value: Any) -> Iterator[Problem]:
    path = below("$", name)
    if name == "data_base64":
        return
    if not _NAME.fullmatch(name):
        expected = "must be named with lower-case letters and digits only, or be part of data"
        yield Problem(path, expected)
    if not isinstance(value, str | int):
        yield Problem(path, "must be text, a whole number, true or false", described(value))
    elif isinstance(value, str) and not value.isprintable():
        yield Problem(path, "must have printable characters only", described(value))


def _is_time(value: Any) -> bool:
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return False
    date, minute, second, zone = match.groups()
    try:
        # A leap second is a valid time, but datetime does not accept it.
        checked_second = "59" if second == "60" else second
        datetime.fromisoformat(f"{date}T{minute}:{checked_second}{zone.upper()}")
    except ValueError:
        return False
    return True
