"""Parsers that read rendered files back for the gate; they share no code with the renderer.

There is one small strict parser per kind of file. Each accepts only what Rebundle writes and
refuses everything else, because anything else in a file is unintended.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import yaml

from renderers.errors import Damaged

_Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STRING: Final = "tag:yaml.org,2002:str"
_MAX_CACHED_LENGTH: Final = 100
"""In characters: longer plain scalars are not cached."""
_resolver: Final[Any] = yaml.resolver.Resolver()

_MAP_LINE: Final = re.compile(r"(\\?[a-z0-9_-]+) ([a-z0-9_-]+):([0-9]+);\n")
_LIST_LINE: Final = re.compile(
    r"((?:[^\s]+ ){7})(?:(gcs:|s3:|azureblob:|local:/files)|(https://))"
    r"([A-Za-z0-9._=+@,~/:()-](?:[A-Za-z0-9._=+@,~/:() -]*[A-Za-z0-9._=+@,~/:()-])?)\n"
)
_SCHEMES: Final = {"gcs:": "gs", "s3:": "s3", "azureblob:": "az", "local:/files": "file"}
_ASSIGNMENT: Final = re.compile(r"([A-Z][A-Za-z0-9_]*)=([A-Za-z0-9._:/-]*)")
_WRAPPED: Final = re.compile(
    r"([a-z_]+) \{ value: (?:([0-9]+)|(true|false)|\"([A-Za-z0-9._-]*)\") \}"
)
_PLAIN: Final = re.compile(r"([a-z_]+): ([0-9]+|true|false)")
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z0-9_]+):-([0-9.]+)([bkmg]?)\}")
_SIZE: Final = re.compile(r"([0-9]{1,18})([bkmg]?)")
_TIME: Final = re.compile(r"(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?")
_NOTED: Final = re.compile(r"([CM][A-Z_]+) ([0-9.]+)([bkmg]?)(?:,|$)")
_PLACEHOLDER: Final = re.compile(r"\{\{ *([a-z_.]+)[^}]*\}\}")
_UNITS: Final = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30}


class Unreadable(Damaged):
    """The text does not have the expected form."""

    def __init__(self, line: int, what: str, found: str) -> None:
        """`line` counts from 1."""
        super().__init__(f"line {line}: expected {what}, found {found}")
        self.line = line
        self.what = what
        self.found = found


@dataclass(frozen=True, slots=True)
class Document:
    """A compose file, cut at some of its services without being parsed."""

    text: bytes
    cuts: tuple[int, ...]
    """The start of each of these services, then the end of the last one."""


@dataclass(frozen=True, slots=True)
class YamlText:
    """A parsed YAML text: its value, and the line of each part."""

    value: Any
    _text: str

    def line(self, path: Sequence[str | int]) -> int:
        """The line, from 1, of the part at `path`, or of its nearest parent that exists."""
        # Parses again: only a failure needs a line, and that is rare.
        node: Any = yaml.compose(self._text, Loader=_Loader)
        for step in path:
            child = _child(node, step)
            if child is None:
                break
            node = child
        line: int = node.start_mark.line
        return line + 1


def document(text: bytes, top: Sequence[str], bottom: Sequence[str]) -> Document:
    """A compose file, cut at the services of its top and its bottom; the part between stays whole.

    Each end is searched from its own side, so the cost does not grow with the file.

    Raises:
        Unreadable: one of the services is missing or not in its place.
    """
    start = text.find(b"\nservices:\n") + len(b"\nservices:\n")
    end = text.rfind(b"\nnetworks:\n") + 1
    if start < len(b"\nservices:\n") or end <= start:
        raise Unreadable(1, "a document with services and then networks", "another one")
    first: list[int] = []
    for name in top:
        position = text.find(f"\n  {name}:\n".encode(), first[-1] if first else start - 1, end) + 1
        if position == 0 or (not first and position != start):
            line = text.count(b"\n", 0, first[-1] if first else start) + 1
            raise Unreadable(line, f"service {name} here or below", "none")
        first.append(position)
    last = [end]
    for name in reversed(bottom):
        position = text.rfind(f"\n  {name}:\n".encode(), first[-1], last[0]) + 1
        if position == 0:
            raise Unreadable(text.count(b"\n", 0, last[0]) + 1, f"service {name} above", "none")
        last.insert(0, position)
    return Document(text, (*first, *last))


def yaml_text(text: str) -> YamlText:
    """One YAML document of plain mappings, sequences and scalars.

    Anchors, aliases, tags, document markers, tabs and duplicate keys are refused.

    It reads the events of the C parser in one pass: nodes and their construction cost three times
    as much. Scalars have their YAML 1.1 meaning, because some readers of a bundle use YAML 1.1.

    Raises:
        Unreadable: it is not such a document.
    """
    _refuse_invisible(text)
    parser = _Loader(text)
    try:
        return YamlText(_only_document(parser), text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise Unreadable(mark.line + 1 if mark else 1, "YAML", str(error.problem)) from error
    except yaml.YAMLError as error:
        raise Unreadable(1, "YAML", str(error).splitlines()[0]) from error
    finally:
        parser.dispose()


def map_line(line: str) -> tuple[str, str, int]:
    """Key (as nginx reads it), service and port in a line of models.map."""
    found = _MAP_LINE.fullmatch(line)
    if found is None:
        raise Unreadable(1, "<id> <service>:<port>;", repr(line))
    key = found[1]
    if key in {"default", "include", "hostnames", "volatile"}:
        raise Unreadable(1, "a backslash before a reserved word of nginx", repr(line))
    return key.removeprefix("\\"), found[2], int(found[3])


def list_line(line: str) -> tuple[tuple[str, ...], str]:
    """The fields of a line of models.txt before its source, and the source's URI."""
    found = _LIST_LINE.fullmatch(line)
    if found is None:
        raise Unreadable(1, "seven fields and a source", repr(line))
    fields, remote, _, path = found.groups()
    scheme = _SCHEMES[remote] if remote else "https"
    return tuple(fields.split()), f"{scheme}://{path}"


def env(text: str) -> dict[str, str]:
    """The assignments of an env file."""
    values: dict[str, str] = {}
    for number, line in _content_lines(text):
        found = _ASSIGNMENT.fullmatch(line)
        if found is None or found[1] in values:
            raise Unreadable(number, "NAME=value, each name once", repr(line))
        values[found[1]] = found[2]
    return values


def noted_amounts(paragraph: str) -> dict[str, tuple[str, int]]:
    """The amounts in the comment above a model's variables: name -> (number, unit's factor)."""
    comment = paragraph.split("\n", 1)[0]
    return {name: (number, _UNITS[unit]) for name, number, unit in _NOTED.findall(comment)}


def batching(text: str) -> dict[str, Any]:
    """The fields of a BatchingParameters message in text format."""
    fields: dict[str, Any] = {}
    for number, line in _content_lines(text):
        found = _WRAPPED.fullmatch(line)
        if found and found[1] not in fields:
            _, number_text, truth, text_value = found.groups()
            value: int | bool | str = text_value
            if number_text is not None:
                value = int(number_text)
            elif truth is not None:
                value = truth == "true"
            fields[found[1]] = value
            continue
        found = _PLAIN.fullmatch(line)
        if found and found[1] == "allowed_batch_sizes" and found[2].isdigit():
            fields.setdefault(found[1], []).append(int(found[2]))
        elif found and found[1] == "pad_variable_length_inputs" and found[1] not in fields:
            fields[found[1]] = found[2] == "true"
        else:
            raise Unreadable(number, "a batching parameter, once", repr(line))
    return fields


@dataclass(frozen=True, slots=True)
class Directive:
    """An nginx directive."""

    name: str
    words: tuple[str, ...]
    """Its arguments."""
    line: int
    inside: frozenset[tuple[str, ...]]
    """The directives directly inside its braces, as (name, *words)."""


_NGINX_TOKEN: Final = re.compile(
    r"""\s+ | \#[^\n]* | ([;{}])
    | ("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | ((?:\$\{[^}]*\}|\\.|[^\s;{}"'])[^\s;{}]*)""",
    re.VERBOSE | re.DOTALL,
)


def nginx(text: str) -> list[Directive]:
    """Every directive of a configuration, at any depth, in the order of their ends.

    Raises:
        Unreadable: the text is not an nginx configuration.
    """
    directives: list[Directive] = []
    words: list[str] = []
    outer: list[tuple[list[str], set[tuple[str, ...]], int]] = []
    inside: set[tuple[str, ...]] = set()
    position, line = 0, 1
    while position < len(text):
        token = _NGINX_TOKEN.match(text, position)
        line = text.count("\n", 0, position) + 1
        if token is None:
            raise Unreadable(
                line, "a word, a quoted word, ';' or a brace", repr(text[position : position + 20])
            )
        position = token.end()
        if token[2] or token[3]:
            words.append(token[2][1:-1] if token[2] else token[3])
        elif token[1] == "{":
            outer.append((words, inside, line))
            words, inside = [], set()
        elif token[1]:
            if token[1] == "}":
                if words or not outer:
                    raise Unreadable(
                        line, "a brace that closes what was opened, behind ';'", repr(token[0])
                    )
                content = frozenset(inside)
                words, inside, line = outer.pop()
            else:
                content = frozenset()
            if not words:
                raise Unreadable(line, "a directive", repr(token[0]))
            name, *rest = words
            directives.append(Directive(name, tuple(rest), line, content))
            inside.add(tuple(words))
            words = []
    if words or outer:
        raise Unreadable(line, "';' or '}' before the end", "the end")
    return directives


def gaps(text: str, pattern: str) -> list[tuple[int, str, str]]:
    """Line, name and text of each part where `pattern` has a gap `{{ name … }}`.

    Raises:
        Unreadable: the text differs from the pattern outside its gaps.
    """
    first, *rest = _PLACEHOLDER.split(pattern)
    _check_literal(text, 0, first)
    found: list[tuple[int, str, str]] = []
    position = len(first)
    for name, literal in zip(rest[::2], rest[1::2], strict=True):
        # The end of the text decides for the last literal: its gap may contain the same text.
        is_end = len(found) == len(rest) // 2 - 1 and text.endswith(literal)
        end = len(text) - len(literal) if is_end else text.find(literal, position)
        if end < position:
            # The fault is after the gap if the first line of the literal is there, else in the gap.
            first_line = literal[: literal.find("\n") + 1] or literal
            end = max(position, text.find(first_line, position))
            _check_literal(text, end, literal)
        found.append((text.count("\n", 0, position) + 1, name, text[position:end]))
        position = end + len(literal)
    if position != len(text):
        raise Unreadable(text.count("\n", 0, position) + 1, "the end", repr(text[position:][:60]))
    return found


def options(service: str) -> list[tuple[int, tuple[str, int], str]]:
    """The comments in a service: line, (key of the service above it, column), and text."""
    found: list[tuple[int, tuple[str, int], str]] = []
    key = ""
    for number, line in enumerate(service.split("\n"), 1):
        text = line.lstrip(" ")
        if text.startswith("#"):
            found.append((number, (key, len(line) - len(text)), text))
        elif line.startswith("    ") and line[4:5] not in {" ", "-"}:
            key = text.partition(":")[0]
    return found


@dataclass(frozen=True, slots=True)
class Comment:
    """A line of a service with nothing but a comment."""

    line: int
    """Counted from 1."""
    column: int
    """The column of its `#`."""
    text: str
    """From the `#` on."""

    @property
    def is_option(self) -> bool:
        """Whether it is an option (`#x`), not a remark (`# x`)."""
        return self.text[1:2] not in {"", " "}


def comments(service: str) -> list[Comment]:
    """The comment lines of a service. A line of a scalar that begins with `#` is none.

    Raises:
        Unreadable: the service is not YAML.
    """
    inside = _scalar_lines(service)
    return [
        Comment(number, len(line) - len(text), text)
        for number, line in enumerate(service.split("\n"), 1)
        if (text := line.lstrip(" ")).startswith("#") and number not in inside
    ]


def _scalar_lines(text: str) -> set[int]:
    """The lines that belong to a scalar which began on a line above them."""
    lines: set[int] = set()
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.ScalarEvent):
                start: Any = event.start_mark
                end: Any = event.end_mark
                # A block ends at the start of the line behind it.
                lines.update(range(start.line + 2, end.line + 1 + (end.column > 0)))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise Unreadable(mark.line + 1 if mark else 1, "YAML", str(error.problem)) from error
    return lines


def switched_on(listing: str) -> str:
    """The service in a diff listing of the README, with its highlighted options enabled."""
    lines = (line for line in listing.split("\n") if line != "    ...")
    return "\n".join(_enabled(line) if line.startswith(">") else line for line in lines)


def _enabled(line: str) -> str:
    """A highlighted line without its mark and its comment sign."""
    return f" {line[1:].replace('#', '', 1)}"


def amount(text: Any) -> tuple[str, str, int] | None:
    """Variable, number and factor of the unit in `${NAME:-default}`; None for any other text."""
    found = _VARIABLE.fullmatch(text) if isinstance(text, str) else None
    return (found[1], found[2], _UNITS[found[3]]) if found else None


def size(found: Any) -> int | None:
    """The bytes of an amount of memory such as 8g; None for anything else."""
    parts = _SIZE.fullmatch(found) if isinstance(found, str) else None
    if parts is not None:
        return int(parts[1]) * _UNITS[parts[2]]
    return found if type(found) is int else None


def seconds(found: Any) -> int | None:
    """The seconds of a time such as 1h30m; None for anything else."""
    parts = _TIME.fullmatch(found) if isinstance(found, str) and found else None
    if parts is None:
        return None
    hours, minutes, rest = (int(part or 0) for part in parts.groups())
    return (hours * 60 + minutes) * 60 + rest


def _content_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines, with their numbers, that are neither empty nor comments."""
    for number, line in enumerate(text.split("\n"), 1):
        if line and not line.startswith("#"):
            yield number, line


def _check_literal(text: str, position: int, literal: str) -> None:
    """Raises Unreadable, with the line that differs, unless `literal` is at `position`."""
    actual = text[position : position + len(literal)]
    if actual == literal:
        return
    pairs = enumerate(zip(actual, literal, strict=False))
    same = next((index for index, (one, other) in pairs if one != other), len(actual))
    line = text.count("\n", 0, position + same) + 1
    start = literal.rfind("\n", 0, same) + 1
    wanted_line = literal[start:].partition("\n")[0]
    actual_line = actual[start:].partition("\n")[0]
    raise Unreadable(line, repr(wanted_line), repr(actual_line))


def _refuse_invisible(text: str) -> None:
    if "\t" not in text and "\r" not in text and " \n" not in text and not text.endswith(" "):
        return
    for number, line in enumerate(text.split("\n"), 1):
        if "\t" in line or "\r" in line or line.endswith(" "):
            raise Unreadable(number, "no tab, carriage return or blank at the end", repr(line))


def _only_document(parser: Any) -> Any:
    _next(parser)  # the start of the stream
    start = _next(parser)
    if not isinstance(start, yaml.DocumentStartEvent):
        raise Unreadable(1, "a document", "none")
    _refuse_marker(start, "---")
    value = _value(parser, _next(parser))
    _refuse_marker(_next(parser), "...")
    after = _next(parser)
    if not isinstance(after, yaml.StreamEndEvent):
        raise Unreadable(_line(after), "one document", "another one")
    return value


def _next(parser: Any) -> Any:
    event = parser.get_event()
    if isinstance(event, yaml.AliasEvent):
        raise Unreadable(_line(event), "no alias", f"*{event.anchor}")
    return event


def _value(parser: Any, event: Any) -> Any:
    if event.anchor is not None or event.tag is not None:
        raise Unreadable(_line(event), "no anchor and no tag", f"{event.anchor or event.tag}")
    if isinstance(event, yaml.ScalarEvent):
        return _plain_scalar(event) if event.implicit[0] else event.value
    if isinstance(event, yaml.SequenceStartEvent):
        return _sequence(parser)
    return _mapping(parser)


def _sequence(parser: Any) -> list[Any]:
    values: list[Any] = []
    while not isinstance(event := _next(parser), yaml.SequenceEndEvent):
        values.append(_value(parser, event))
    return values


def _mapping(parser: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    while not isinstance(event := _next(parser), yaml.MappingEndEvent):
        key = _value(parser, event)
        if type(key) is not str or key in values:
            raise Unreadable(_line(event), "each key once, and a string", repr(key))
        values[key] = _value(parser, _next(parser))
    return values


def _plain_scalar(event: Any) -> Any:
    text = event.value
    try:
        return _meaning(text) if len(text) <= _MAX_CACHED_LENGTH else _meaning.__wrapped__(text)
    except (ValueError, yaml.YAMLError) as error:
        raise Unreadable(_line(event), "a plain value", repr(text)) from error


@lru_cache(maxsize=4096)
def _meaning(text: str) -> Any:
    """The value of an unquoted scalar. Cached: most of them repeat in each service."""
    tag = _resolver.resolve(yaml.ScalarNode, text, (True, False))
    if tag == _STRING:
        return text
    return yaml.constructor.SafeConstructor().construct_object(yaml.ScalarNode(tag, text))


def _refuse_marker(event: Any, marker: str) -> None:
    if event.explicit:
        raise Unreadable(_line(event), "no document marker", marker)


def _line(event: Any) -> int:
    line: int = event.start_mark.line
    return line + 1


def _child(node: yaml.Node, step: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((child for key, child in node.value if key.value == step), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        child: yaml.Node = node.value[step]
        return child
    return None
