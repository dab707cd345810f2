"""Fills YAML templates that have comments. The only module that uses ruamel.yaml.

A template has placeholders such as `<image>` in values, keys and comments. It is parsed and written
once, with a mark for each placeholder. There are two ways to fill it, with the same result:

* A value that ruamel.yaml cannot write in any other way (letters, digits and a few signs between
  them) replaces its mark in the written text. This costs no more than joining strings.
* With any other value, a private copy of the parsed tree is filled and written by ruamel.yaml. So
  ruamel.yaml always chooses quoting and layout. A placeholder before a comment on the same line
  needs this way, too, because the layout depends on the length of the value.

A plain scalar that some YAML reader could read as a number, a date or a keyword is double-quoted,
because Compose, the gate and the tools of operators use different versions of YAML. Each call makes
its own `YAML()`: an instance that threads share breaks. `yaml_emitter` writes documents without a
template.
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

from renderers.errors import Invalid, UnsafeText

_PLACEHOLDER: Final = re.compile(r"<([a-z_]+(?::[0-9]+)?)>")
_NUMBER_OR_DATE = r"[-+]?\.?[0-9][0-9a-fotxz_:.+ -]*|[-+]?\.(inf|nan)"
_AMBIGUOUS: Final = re.compile(
    rf"{_NUMBER_OR_DATE}|y|n|yes|no|on|off|true|false|null|~", re.IGNORECASE
)
# Letters and digits, with these signs between them: none of them has a meaning inside a plain
# scalar or at its end.
_NEVER_QUOTED: Final = re.compile(r"[A-Za-z0-9]+(?:[_./@+=~:-]+[A-Za-z0-9]+)*")
# The printable characters beyond ASCII, without the line breaks of any reader and byte order marks.
_BEYOND_ASCII = r"\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff"
_ONE_LINE: Final = re.compile(rf"[ -~{_BEYOND_ASCII}]*")
# The same without the quote and the backslash.
_NEVER_ESCAPED: Final = re.compile(rf"[ !#-\[\]-~{_BEYOND_ASCII}]*")
# ruamel.yaml writes longer keys, and keys with a line break, in another form.
_MAX_KEY_LENGTH: Final = 122
_LINE_BREAK: Final = re.compile(r"[\n\x85\u2028\u2029]")
# ruamel.yaml keeps the column of a comment, so the spaces before it depend on the value.
_COMMENT_BEHIND: Final = re.compile(r"[^\n]*#")
_WORDS: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_./ -]*[A-Za-z0-9_./-]|[A-Za-z_]")


# ruamel.yaml raises these for invalid dates, unsuitable tags and deep nesting.
_OTHER_ERRORS: Final = (ValueError, TypeError, AttributeError, LookupError, RecursionError)

_InScalar = Callable[[str, tuple[str, ...]], str]
"""The replacement of a scalar. For a key, the second argument has all keys of its mapping."""


class NotYaml(Invalid):
    """A text is not the expected YAML."""

    def __init__(self, line: int, problem: str) -> None:
        """`line` counts from 1."""
        super().__init__(problem)
        self.line = line


class _Place(Enum):
    """The place of a placeholder. It decides which values can be inserted without ruamel.yaml."""

    PLAIN = "in a plain scalar"
    QUOTED = "between double quotes"
    COMMENT = "in a comment"
    OTHER = "where what is written around it depends on the value"


@dataclass(frozen=True, slots=True)
class _Placeholder:
    """A placeholder in a template."""

    name: str
    around: str
    """The scalar or comment that contains it."""
    place: _Place
    keys: tuple[str, ...]
    """All keys of the mapping if it is in one of them, else empty."""

    def before(self, piece: str) -> "_Placeholder":
        """This placeholder, with its place corrected for the text `piece` that follows it."""
        is_moved = self.place is not _Place.COMMENT and _COMMENT_BEHIND.match(piece)
        return replace(self, place=_Place.OTHER) if is_moved else self

    def takes(self, value: str, values: Mapping[str, str]) -> bool:
        """Whether ruamel.yaml would write `value` here unchanged, with `values` around it."""
        if self.keys and not self._is_simple_key(values):
            return False
        match self.place:
            case _Place.PLAIN:
                is_ambiguous = _AMBIGUOUS.fullmatch(_replaced(self.around, values))
                return bool(_NEVER_QUOTED.fullmatch(value)) and not is_ambiguous
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
        return is_simple_key(key) and all(
            key not in {other, _replaced(other, values)} for other in others
        )


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template document."""

    _tree: bytes
    """The pickled tree, with its placeholders."""
    _pieces: tuple[str, ...]
    """The text that ruamel.yaml writes for the document, split at the placeholders."""
    _placeholders: tuple[_Placeholder, ...]
    outline: Mapping[str, tuple[str, ...]]
    """The names below each top-level key."""

    @classmethod
    def parse(cls, text: str) -> "Template":
        """The template in `text`.

        Raises:
            NotYaml: it is not YAML, or not a mapping.
        """
        try:
            tree = load(text)
            if not isinstance(tree, CommentedMap):
                raise NotYaml(1, "it must be a mapping")
            # Before the marks: they replace the placeholders in the tree itself.
            pickled = pickle.dumps(tree)
            outline = {str(key): _key_names(child) for key, child in tree.items()}
            marks = _Marks(hashlib.sha256(text.encode()).hexdigest()[:16])
            _visit(tree, marks.in_scalar, marks.in_comment)
            cut = re.split(rf"mark([0-9]+)x{marks.seed}", dump(tree))
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise NotYaml(
                mark.line + 1 if mark else 1, str(error.problem or error.context)
            ) from error
        except ReaderError as error:
            raise NotYaml(text.count("\n", 0, error.position) + 1, error.reason) from error
        except _OTHER_ERRORS as error:
            raise NotYaml(1, f"{type(error).__name__}: {error}") from error
        placeholders = (marks.placeholders[int(number)] for number in cut[1::2])
        return cls(
            pickled,
            tuple(cut[::2]),
            tuple(map(_Placeholder.before, placeholders, cut[2::2])),
            outline,
        )

    @property
    def names(self) -> frozenset[str]:
        """The names of the placeholders that must be filled.

        Comments are left out: a placeholder there may be one for operators to fill in.
        """
        return frozenset(
            placeholder.name
            for placeholder in self._placeholders
            if placeholder.place is not _Place.COMMENT
        )

    def filled(self, values: Mapping[str, str]) -> str:
        """The document with its placeholders replaced. A placeholder without a value stays.

        Raises:
            UnsafeText: two keys of a mapping would be equal, or a value would end a comment.
        """
        parts = [self._pieces[0]]
        for placeholder, piece in zip(self._placeholders, self._pieces[1:], strict=True):
            value = values.get(placeholder.name, f"<{placeholder.name}>")
            if not placeholder.takes(value, values):
                return self._written(values)
            parts += (value, piece)
        return "".join(parts)

    def _written(self, values: Mapping[str, str]) -> str:
        # A copy by pickle costs a tenth of a deep copy, and it keeps the comments.
        # It was made in this process, never read from outside.
        tree = pickle.loads(self._tree)  # noqa: S301
        try:
            fill(tree, values)
            return dump(tree)
        except (YAMLError, *_OTHER_ERRORS) as error:
            raise UnsafeText("this YAML document", f"{type(error).__name__}: {error}") from error


def refuse_extras(text: str) -> None:
    """Raises NotYaml if the text has an anchor, an alias or a tag.

    ruamel.yaml may rewrite these, so its output would not match the template.
    """
    for event in _yaml().parse(text):
        if (
            isinstance(event, AliasEvent)
            or getattr(event, "anchor", None)
            or getattr(event, "tag", None)
        ):
            raise NotYaml(event.start_mark.line + 1, "it must have no anchor, no alias and no tag")


class _Marks:
    """Replaces each placeholder by a mark.

    No document contains a mark already, because `seed` is the document's own digest.
    """

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self.placeholders: list[_Placeholder] = []

    def in_scalar(self, scalar: str, keys: tuple[str, ...]) -> str:
        marked = self._marked(scalar, _place(scalar, keys), keys)
        return cast("str", type(scalar)(marked)) if isinstance(scalar, ScalarString) else marked

    def in_comment(self, comment: str) -> str:
        return self._marked(comment, _Place.COMMENT)

    def _marked(self, text: str, place: _Place, keys: tuple[str, ...] = ()) -> str:
        def mark(found: re.Match[str]) -> str:
            self.placeholders.append(_Placeholder(found[1], text, place, keys))
            return f"mark{len(self.placeholders) - 1}x{self.seed}"

        return _PLACEHOLDER.sub(mark, text)


def _place(scalar: str, keys: tuple[str, ...]) -> _Place:
    with_marks = len(_PLACEHOLDER.sub("mark1000x0123456789abcdef", scalar))
    if keys and with_marks > _MAX_KEY_LENGTH:
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
    """Replaces the placeholders below `node`, including those in comments.

    Raises:
        UnsafeText: two keys of a mapping would be equal, or a value would end a comment.
    """
    _visit(
        node,
        lambda scalar, _: _filled_scalar(scalar, values),
        lambda comment: _filled_comment(comment, values),
    )


def plain_or_quoted(text: str) -> str:
    """`text` as a scalar of a document without a template.

    It is plain if every YAML reader reads it as text, else double-quoted.
    """
    if _WORDS.fullmatch(text) and not _AMBIGUOUS.fullmatch(text):
        return text
    return (
        f'"{text}"'
        if _NEVER_ESCAPED.fullmatch(text)
        else dump(DoubleQuotedScalarString(text)).rstrip("\n")
    )


def is_simple_key(key: str) -> bool:
    """Whether ruamel.yaml writes the key as `key:`, not as `? key`."""
    return len(key) <= _MAX_KEY_LENGTH and not _LINE_BREAK.search(key)


def written(text: str) -> str:
    """`text` as a scalar inside a comment, where ruamel.yaml does not quote."""
    return f'"{text}"' if _AMBIGUOUS.fullmatch(text) else text


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1 << 30
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _visit(node: Any, scalar: _InScalar, comment: Callable[[str], str]) -> None:
    """Replaces each scalar and comment with a placeholder by the result of a function."""
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


def _visit_child(
    parent: Any, key: Any, child: Any, scalar: _InScalar, comment: Callable[[str], str]
) -> None:
    if isinstance(child, str):
        if _PLACEHOLDER.search(child):
            parent[key] = scalar(child, ())
    elif isinstance(child, CommentedMap | CommentedSeq):
        _visit(child, scalar, comment)


def _filled_scalar(scalar: str, values: Mapping[str, str]) -> str:
    text = _replaced(scalar, values)
    if isinstance(scalar, ScalarString):
        return cast("str", type(scalar)(text))
    return DoubleQuotedScalarString(text) if _AMBIGUOUS.fullmatch(text) else text


def _filled_comment(comment: str, values: Mapping[str, str]) -> str:
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


def _key_names(node: Any) -> tuple[str, ...]:
    return tuple(map(str, node)) if isinstance(node, CommentedMap) else ()


def _comments(part: Any) -> list[CommentToken]:
    """The comment tokens in the nested lists where ruamel.yaml keeps them."""
    match part:
        case CommentToken():
            return [part]
        case list() | tuple():
            return [token for member in part for token in _comments(member)]
        case dict():
            return _comments(list(part.values()))
        case None:
            return []
        case _:
            return _comments([part.comment, part.items, part.end])
