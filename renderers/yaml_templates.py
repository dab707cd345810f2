"""ruamel.yaml's one home: commented templates in, filled YAML text out.

A template's text holds placeholders such as `<image>` in values, keys and comments. It is parsed and written once, with
marks for placeholders. A value that ruamel.yaml can only write as it is (letters, digits and a few signs between them)
is then put in the place of its mark; anything else fills a private copy of the tree that ruamel.yaml writes anew. So
quoting and layout are always its choice, at the price of a string. Where layout depends on a value's length, in front
of a comment on the same line, that copy is taken too. A `YAML()` is made for every call: one that threads share breaks.

A plain scalar that some YAML reader could take for a number, a date or a word is double-quoted, because Compose, the
gate and an operator's tools do not all read the same version of YAML. Documents without a template: see `documents`.
"""

import hashlib
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from io import StringIO
from typing import Any, Final, assert_never, cast

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, ScalarString
from ruamel.yaml.tokens import CommentToken

from renderers.errors import UnsafeText

_PLACEHOLDER: Final = re.compile(r"<([a-z_]+(?::[0-9]+)?)>")
_NUMBER_OR_DATE = r"[-+]?\.?[0-9][0-9a-fotxz_:.+ -]*|[-+]?\.(inf|nan)"
_AMBIGUOUS: Final = re.compile(rf"{_NUMBER_OR_DATE}|y|n|yes|no|on|off|true|false|null|~", re.IGNORECASE)
# Letters and digits, with these between them: no place inside a plain scalar, nor its end, gives any of them a meaning.
_NEVER_QUOTED: Final = re.compile(r"[A-Za-z0-9]+(?:[_./@+=~:-]+[A-Za-z0-9]+)*")
# What can be printed on one line, beside ASCII: no line break of any reader, no byte order mark.
_BEYOND_ASCII = r"\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff"
_ONE_LINE: Final = re.compile(rf"[ -~{_BEYOND_ASCII}]*")
# The same but for the quote and the backslash.
_NEVER_ESCAPED: Final = re.compile(rf"[ !#-\[\]-~{_BEYOND_ASCII}]*")
# Longer keys, and those with a line break, ruamel.yaml writes in another way.
_LONGEST_KEY: Final = 122
_LINE_BREAK: Final = re.compile(r"[\n\x85\u2028\u2029]")
# ruamel.yaml puts a comment back to its column, so the spaces before it depend on what is filled in.
_COMMENT_BEHIND: Final = re.compile(r"[^\n]*#")
_WORDS: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_./ -]*[A-Za-z0-9_./-]|[A-Za-z_]")


# What ruamel.yaml raises beside its own errors: dates that are none, tags that do not fit, a nesting without end.
_BEYOND_RUAMEL: Final = (ValueError, TypeError, AttributeError, LookupError, RecursionError)

_InScalar = Callable[[str, tuple[str, ...]], str]
"""What to put in the place of a scalar; of a key with all keys of its mapping, else with none."""


class NotYaml(Exception):
    """A text is not the YAML that it should be."""

    def __init__(self, line: int, problem: str) -> None:
        """`line` counts from 1."""
        super().__init__(problem)
        self.line = line


class _Place(Enum):
    """Where a placeholder stands, which decides what may be put there as it is."""

    PLAIN = "in a plain scalar"
    QUOTED = "between double quotes"
    COMMENT = "in a comment"
    OTHER = "where what is written around it depends on the value"


@dataclass(frozen=True, slots=True)
class _Hole:
    """A placeholder, and the scalar or comment around it."""

    name: str
    around: str
    place: _Place
    keys: tuple[str, ...]
    """All keys of the mapping, where it stands in one of them."""

    def before(self, piece: str) -> "_Hole":
        """This one, when `piece` is what is written behind it."""
        is_moved = self.place is not _Place.COMMENT and _COMMENT_BEHIND.match(piece)
        return replace(self, place=_Place.OTHER) if is_moved else self

    def takes(self, value: str, values: Mapping[str, str]) -> bool:
        """Whether ruamel.yaml writes `value` here as it is, when the others around it are those of `values`."""
        if self.keys and not self._is_simple_key(values):
            return False
        match self.place:
            case _Place.PLAIN:
                return bool(_NEVER_QUOTED.fullmatch(value)) and not _AMBIGUOUS.fullmatch(_replaced(self.around, values))
            case _Place.QUOTED:
                return bool(_NEVER_ESCAPED.fullmatch(value))
            case _Place.COMMENT:
                return bool(_ONE_LINE.fullmatch(value))
            case _Place.OTHER:
                return False
            case _ as never:
                assert_never(never)

    def _is_simple_key(self, values: Mapping[str, str]) -> bool:
        key = _replaced(self.around, values)
        others = [other for other in self.keys if other != self.around]
        return is_simple_key(key) and all(key not in {other, _replaced(other, values)} for other in others)


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template document, and what ruamel.yaml writes for it, cut at its placeholders."""

    _tree: bytes
    _pieces: tuple[str, ...]
    """What stands before the first hole, between two, and behind the last."""
    _holes: tuple[_Hole, ...]
    outline: Mapping[str, tuple[str, ...]]
    """The names that stand below each of the document's own."""

    @classmethod
    def parse(cls, text: str) -> "Template":
        """The template in `text`.

        Raises:
            NotYaml: it is no mapping in YAML.
        """
        try:
            tree = load(text)
            if not isinstance(tree, CommentedMap):
                raise NotYaml(1, "it must be a mapping")
            pickled, outline = pickle.dumps(tree), {str(key): _names(child) for key, child in tree.items()}
            marks = _Marks(hashlib.sha256(text.encode()).hexdigest()[:16])
            _visit(tree, marks.in_scalar, marks.in_comment)
            cut = re.split(rf"mark([0-9]+)x{marks.seed}", dump(tree))
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise NotYaml(mark.line + 1 if mark else 1, str(error.problem or error.context)) from error
        except ReaderError as error:
            raise NotYaml(text.count("\n", 0, error.position) + 1, error.reason) from error
        except _BEYOND_RUAMEL as error:
            raise NotYaml(1, f"{type(error).__name__}: {error}") from error
        holes = (marks.holes[int(number)] for number in cut[1::2])
        return cls(pickled, tuple(cut[::2]), tuple(map(_Hole.before, holes, cut[2::2])), outline)

    @property
    def names(self) -> frozenset[str]:
        """Of the placeholders that have to be filled; one in a comment may stand for what an operator fills in."""
        return frozenset(hole.name for hole in self._holes if hole.place is not _Place.COMMENT)

    def filled(self, values: Mapping[str, str]) -> str:
        """The document with its placeholders replaced; one without a value stays as it is.

        What ruamel.yaml writes as it is goes straight into the text that it wrote before; a value that it would, or
        might, write otherwise sends the whole document through it.

        Raises:
            UnsafeText: a key would stand twice in its mapping, or a value would end a comment.
        """
        parts = [self._pieces[0]]
        for hole, piece in zip(self._holes, self._pieces[1:], strict=True):
            value = values.get(hole.name, f"<{hole.name}>")
            if not hole.takes(value, values):
                return self._written(values)
            parts += (value, piece)
        return "".join(parts)

    def _written(self, values: Mapping[str, str]) -> str:
        # A copy by pickle costs a tenth of a deep copy, and comments survive it.
        tree = pickle.loads(self._tree)  # noqa: S301 - made in this process, never read from outside
        try:
            fill(tree, values)
            return dump(tree)
        except (YAMLError, *_BEYOND_RUAMEL) as error:
            raise UnsafeText("this YAML document", f"{type(error).__name__}: {error}") from error


def refuse_extras(text: str) -> None:
    """Raises NotYaml: the text has an anchor, an alias or a tag, which ruamel.yaml would write as it likes."""
    for event in _yaml().parse(text):
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise NotYaml(event.start_mark.line + 1, "it must have no anchor, no alias and no tag")


class _Marks:
    """Puts a mark in the place of each placeholder; no document holds them, for `seed` is the document's digest."""

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self.holes: list[_Hole] = []

    def in_scalar(self, scalar: str, keys: tuple[str, ...]) -> str:
        marked = self._marked(scalar, _place(scalar, keys), keys)
        return cast("str", type(scalar)(marked)) if isinstance(scalar, ScalarString) else marked

    def in_comment(self, comment: str) -> str:
        return self._marked(comment, _Place.COMMENT)

    def _marked(self, text: str, place: _Place, keys: tuple[str, ...] = ()) -> str:
        def mark(found: re.Match[str]) -> str:
            self.holes.append(_Hole(found[1], text, place, keys))
            return f"mark{len(self.holes) - 1}x{self.seed}"

        return _PLACEHOLDER.sub(mark, text)


def _place(scalar: str, keys: tuple[str, ...]) -> _Place:
    with_marks = len(_PLACEHOLDER.sub("mark1000x0123456789abcdef", scalar))
    if keys and with_marks > _LONGEST_KEY:
        return _Place.OTHER
    if isinstance(scalar, DoubleQuotedScalarString):
        return _Place.QUOTED
    return _Place.OTHER if isinstance(scalar, ScalarString) else _Place.PLAIN


def load(text: str) -> Any:
    """The tree of a document, with its comments."""
    return _yaml().load(text)


def dump(tree: Any) -> str:
    """The text of a tree."""
    stream = StringIO()
    _yaml().dump(tree, stream)
    return stream.getvalue()


def fill(node: Any, values: Mapping[str, str]) -> None:
    """Replaces the placeholders below `node`, in comments too.

    Raises:
        UnsafeText: a key would stand twice in its mapping, or a value would end a comment.
    """
    _visit(node, lambda scalar, _: _filled(scalar, values), lambda comment: _commented(comment, values))


def plain_or_quoted(text: str) -> str:
    """`text` as a scalar of a document that has no template: plain where no reader can take it for anything else."""
    if _WORDS.fullmatch(text) and not _AMBIGUOUS.fullmatch(text):
        return text
    return f'"{text}"' if _NEVER_ESCAPED.fullmatch(text) else dump(DoubleQuotedScalarString(text)).rstrip("\n")


def is_simple_key(key: str) -> bool:
    """Whether ruamel.yaml writes it with a colon behind it, and not with a question mark before it."""
    return len(key) <= _LONGEST_KEY and not _LINE_BREAK.search(key)


def written(text: str) -> str:
    """`text` as it is written by hand where a scalar stands in a comment."""
    return f'"{text}"' if _AMBIGUOUS.fullmatch(text) else text


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1 << 30
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _visit(node: Any, scalar: _InScalar, comment: Callable[[str], str]) -> None:
    """Puts the result of a function in the place of each scalar, and of each comment, that has a placeholder."""
    match node:
        case CommentedMap():
            keys = tuple(key for key in node if isinstance(key, str))
            for key in filter(_PLACEHOLDER.search, keys):
                _rename(node, key, scalar(key, keys))
            for key, child in node.items():
                _visit_child(node, key, child, scalar, comment)
        case _:
            for index, child in enumerate(node):
                _visit_child(node, index, child, scalar, comment)
    for token in _comments(node.ca):
        token.value = comment(token.value)


def _visit_child(parent: Any, key: Any, child: Any, scalar: _InScalar, comment: Callable[[str], str]) -> None:
    if isinstance(child, str):
        if _PLACEHOLDER.search(child):
            parent[key] = scalar(child, ())
    elif isinstance(child, CommentedMap | CommentedSeq):
        _visit(child, scalar, comment)


def _filled(scalar: str, values: Mapping[str, str]) -> str:
    text = _replaced(scalar, values)
    if isinstance(scalar, ScalarString):
        return cast("str", type(scalar)(text))
    return DoubleQuotedScalarString(text) if _AMBIGUOUS.fullmatch(text) else text


def _commented(comment: str, values: Mapping[str, str]) -> str:
    for name in _PLACEHOLDER.findall(comment):
        if not _ONE_LINE.fullmatch(values.get(name, "")):
            raise UnsafeText("a comment", values[name])
    return _replaced(comment, values)


def _replaced(text: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), text)


def _rename(parent: CommentedMap, old: str, new: str) -> None:
    if new != old and new in parent:
        raise UnsafeText("a mapping that has this key already", new)
    position = list(parent).index(old)
    comment = parent.ca.items.pop(old, None)
    parent.insert(position, new, parent.pop(old))
    if comment is not None:
        parent.ca.items[new] = comment


def _names(node: Any) -> tuple[str, ...]:
    return tuple(map(str, node)) if isinstance(node, CommentedMap) else ()


def _comments(part: Any) -> list[CommentToken]:
    """The comment tokens in ruamel.yaml's nested lists of them."""
    match part:
        case CommentToken():
            return [part]
        case list() | tuple():
            return [token for each in part for token in _comments(each)]
        case dict():
            return _comments(list(part.values()))
        case None:
            return []
        case _:
            return _comments([part.comment, part.items, part.end])
