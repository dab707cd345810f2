"""CloudEvents 1.0: bytes -> events. Pure.

HTTP's three modes (structured, binary, batch), chosen by the content type alone, and the forms that a file may have.
The envelope is judged here by hand: the public SDK makes up a missing id, takes NaN, duplicate keys and version 0.3,
and fails with many kinds of exception. What `data` says is judged by `schemas`; whether a type is known, by the caller.
Every problem of a request comes at once.
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
from events.strict_json import MOST_PROBLEMS, below, described

STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"

_JSON: Final = re.compile(r"application/json|[a-z0-9!#$&^_.-]+/[a-z0-9!#$&^_.-]+\+json")
_NAME: Final = re.compile(r"[a-z0-9]{1,64}")
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")
_TIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}):([0-9]{2})(?:\.[0-9]{1,12})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_ENVELOPE: Final = frozenset({"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"})
_LONGEST: Final = {"id": 256, "source": 1024, "type": 256, "subject": 1024}


@dataclass(frozen=True, slots=True)
class DecodingLimits:
    """How much one request or file may hold."""

    most_bytes: int = 1 << 20
    """Of the body; Kafka's own default for a message."""
    deepest: int = 32
    """Levels of an event in structured form, the envelope included."""
    most_events: int = 100
    """Of a batch."""


DEFAULT_LIMITS: Final = DecodingLimits()
FILE_LIMITS: Final = DecodingLimits(most_bytes=64 << 20, most_events=100_000)
"""Of a file, whose sender divides it into requests."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The events of one HTTP request."""

    events: tuple[Event, ...]
    batch: bool
    """Whether it came as a batch, which may also hold one event, or none."""


JudgeData = Callable[[object, object], Sequence[Problem]]
"""What is wrong with an event's data, by its type, for an event whose envelope is wrong: all problems come at once."""


def decode_http(
    headers: Iterable[tuple[bytes, bytes]],
    body: bytes,
    limits: DecodingLimits = DEFAULT_LIMITS,
    judge_data: JudgeData | None = None,
) -> Decoded:
    """The events of a request; header names in any case.

    Raises:
        UnsupportedContentType: it is in no mode that is read here (415).
        InvalidEvent: with every problem; in a batch, paths start with the event's index, as in `$[3].id`.
    """
    given = [(name.lower(), value) for name, value in headers]
    media_type = _media_type([value for name, value in given if name == b"content-type"])
    if media_type == STRUCTURED:
        return Decoded((decode_structured(body, limits, judge_data),), batch=False)
    if media_type == BATCH:
        return Decoded(_decode_batch(body, limits, judge_data), batch=True)
    if _JSON.fullmatch(media_type) and not media_type.startswith("application/cloudevents"):
        return Decoded((_decode_binary(given, body, limits, judge_data),), batch=False)
    expected = f"must be {STRUCTURED}, {BATCH}, or application/json with ce- headers"
    raise UnsupportedContentType(f"Content-Type {described(media_type)}: {expected}")


def decode_structured(
    body: bytes, limits: DecodingLimits = DEFAULT_LIMITS, judge_data: JudgeData | None = None
) -> Event:
    """The one event that `body` holds in structured JSON form.

    Raises:
        InvalidEvent: with every problem.
    """
    return _event(strict_json.loads(body, most_bytes=limits.most_bytes, deepest=limits.deepest), judge_data)


def decode_many(
    text: bytes, limits: DecodingLimits = FILE_LIMITS, judge_data: JudgeData | None = None
) -> tuple[Event, ...]:
    """The events of a file: one event, an array of events, or one event to a line.

    Raises:
        InvalidEvent: with every problem; in lines, paths start with the line, as in `line 3 $.id`.
    """
    if text.lstrip().startswith(b"["):
        return _decode_batch(text, limits, judge_data)
    lines = [(f"line {number} $", line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if len(lines) > 1 and _is_whole(lines[0][1]):
        return _decode_each((path, partial(decode_structured, line, limits, judge_data)) for path, line in lines)
    return (decode_structured(text, limits, judge_data),)


def _is_whole(line: bytes) -> bool:
    """Whether a first line is a JSON value of its own: then each line is one, and not all of them together."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _decode_batch(body: bytes, limits: DecodingLimits, judge_data: JudgeData | None) -> tuple[Event, ...]:
    batch = strict_json.loads(body, most_bytes=limits.most_bytes, deepest=limits.deepest + 1)
    if not isinstance(batch, list):
        raise InvalidEvent(Problem("$", "must be a list of events", described(batch)))
    if len(batch) > limits.most_events:
        raise InvalidEvent(Problem("$", f"must hold at most {limits.most_events} events", f"{len(batch)} events"))
    return _decode_each((f"$[{index}]", partial(_event, value, judge_data)) for index, value in enumerate(batch))


def _decode_each(parts: Iterable[tuple[str, Callable[[], Event]]]) -> tuple[Event, ...]:
    events: list[Event] = []
    problems: list[Problem] = []
    for path, decode in parts:
        try:
            events.append(decode())
        except InvalidEvent as error:
            problems += _at(path, error)
            if len(problems) >= MOST_PROBLEMS:
                break
    if problems:
        raise InvalidEvent(*problems[:MOST_PROBLEMS])
    return tuple(events)


def _decode_binary(
    headers: list[tuple[bytes, bytes]], body: bytes, limits: DecodingLimits, judge_data: JudgeData | None
) -> Event:
    attributes, problems = _header_attributes(headers)
    if not attributes and not problems:
        expected = (
            f"must be a CloudEvent: Content-Type {STRUCTURED}, "
            "or application/json with the headers ce-specversion, ce-id, ce-source and ce-type"
        )
        raise InvalidEvent(Problem("$", expected))
    try:
        # The envelope is a level of its own in the form in which the event is kept.
        attributes["data"] = strict_json.loads(body, most_bytes=limits.most_bytes, deepest=limits.deepest - 1)
    except InvalidEvent as error:
        problems += _at("$.data", error)
        attributes["data"], judge_data = {}, None
    if problems:
        _refuse([*problems, *_problems(attributes)], attributes, judge_data)
    return _event(attributes, judge_data)


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
            problems.append(Problem(path, "must not be a header: the body is the data, Content-Type its type"))
        else:
            try:
                attributes[name] = _header_text(value)
            except UnicodeDecodeError:
                problems.append(Problem(path, "must be percent-encoded UTF-8", described(value.decode("latin-1"))))
    return attributes, problems


def _header_text(value: bytes) -> str:
    """HTTP binding 3.1.3.2: a quoted string is unquoted first, then one round of percent-decoding."""
    value = value.strip(b" \t")
    if len(value) > 1 and value.startswith(b'"') and value.endswith(b'"'):
        value = re.sub(rb"\\(.)", rb"\1", value[1:-1])
    return unquote_to_bytes(value).decode("utf-8")


def _media_type(given: list[bytes]) -> str:
    if len(given) != 1:
        raise UnsupportedContentType("a request needs one Content-Type header")
    media_type, problem = _parsed_media_type(given[0].decode("latin-1"))
    if problem:
        raise UnsupportedContentType(problem)
    return media_type


def _parsed_media_type(text: str) -> tuple[str, str]:
    """The media type in lower case, and what is wrong with its charset, if anything."""
    media_type, *parameters = (part.strip().lower() for part in text.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "charset" and value.strip('"') not in {"utf-8", "utf8", "us-ascii"}:
            return media_type, f"must be UTF-8: charset {described(value)} is not supported"
    return media_type, ""


def _at(path: str, error: InvalidEvent) -> Iterator[Problem]:
    for problem in error.problems:
        yield replace(problem, path=path + problem.path.removeprefix("$"))


def _event(value: Any, judge_data: JudgeData | None) -> Event:
    if not isinstance(value, dict):
        raise InvalidEvent(Problem("$", "must be an event: a JSON object", described(value)))
    # The JSON format spells an attribute that is not set as null.
    given = {name: attribute for name, attribute in value.items() if attribute is not None or name == "data"}
    problems = list(_problems(given))
    if problems:
        _refuse(problems, given, judge_data)
    return Event(
        id=given["id"],
        source=given["source"],
        type=given["type"],
        data=given["data"],
        subject=given.get("subject"),
        time=given.get("time"),
        extensions={name: attribute for name, attribute in given.items() if name not in _ENVELOPE},
    )


def _refuse(problems: Sequence[Problem], given: Mapping[str, Any], judge_data: JudgeData | None) -> NoReturn:
    """Raises InvalidEvent with the problems of an envelope, and with those of its data."""
    of_data = judge_data(given.get("type"), given.get("data")) if judge_data else ()
    raise InvalidEvent(*[*problems, *of_data][:MOST_PROBLEMS])


def _problems(given: Mapping[str, Any]) -> Iterator[Problem]:
    yield from _envelope_problems(given)
    yield from _data_problems(given)
    for name, attribute in given.items():
        if name not in _ENVELOPE:
            yield from _extension_problems(name, attribute)


def _envelope_problems(given: Mapping[str, Any]) -> Iterator[Problem]:
    version = given.get("specversion")
    if version != "1.0":
        yield Problem("$.specversion", 'must be "1.0"', _found(version))
    for name in ("id", "source", "type"):
        if name not in given:
            yield Problem(f"$.{name}", "is required")
    for name in ("id", "source", "type", "subject"):
        if name in given:
            yield from _text_problems(name, given[name])
    if "time" in given and not _is_time(given["time"]):
        expected = "must be a time with its zone, such as 2026-11-22T10:00:00Z (RFC 3339)"
        yield Problem("$.time", expected, described(given["time"]))


def _text_problems(name: str, value: Any) -> Iterator[Problem]:
    longest = _LONGEST[name]
    if not isinstance(value, str) or not value or len(value) > longest or not value.isprintable():
        yield Problem(f"$.{name}", f"must be text of 1 to {longest} printable characters", described(value))
    elif name == "source" and not _URI.fullmatch(value):
        yield Problem("$.source", "must be an absolute URI, such as https://registry.example.com/", described(value))


def _data_problems(given: Mapping[str, Any]) -> Iterator[Problem]:
    if "data_base64" in given:
        yield Problem("$.data_base64", "must be absent: data is a JSON object")
    elif "data" not in given and "dataref" in given:
        yield Problem("$.data", "is required: dataref is not followed, send the data itself")
    elif "data" not in given:
        yield Problem("$.data", "is required")
    elif not isinstance(given["data"], dict):
        yield Problem("$.data", "must be an object", described(given["data"]))
    if "datacontenttype" in given:
        declared = given["datacontenttype"]
        media_type, problem = _parsed_media_type(declared) if isinstance(declared, str) else ("", "")
        if problem or not _JSON.fullmatch(media_type):
            yield Problem("$.datacontenttype", problem or "must be application/json", described(declared))


def _extension_problems(name: str, value: Any) -> Iterator[Problem]:
    path = below("$", name)
    if name == "data_base64":
        return
    if not _NAME.fullmatch(name):
        yield Problem(path, "must be named with lower-case letters and digits only, or belong into data")
    if not isinstance(value, str | int):
        yield Problem(path, "must be text, a whole number, true or false", described(value))
    elif isinstance(value, str) and not value.isprintable():
        yield Problem(path, "must have printable characters only", described(value))


def _found(value: Any) -> str:
    return "" if value is None else described(value)


def _is_time(value: Any) -> bool:
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return False
    date, minute, second, zone = match.groups()
    try:
        # A leap second is a valid time that datetime does not know.
        datetime.fromisoformat(f"{date}T{minute}:{'59' if second == '60' else second}{zone.upper()}")
    except ValueError:
        return False
    return True
