"""ruamel.yaml's one home: commented templates in, filled YAML text out.

A template's text holds placeholders such as `<image>` in values, keys and comments. It is parsed once; every use
fills a private copy of the tree and lets ruamel.yaml write it, so that quoting and layout are always its choice. A
`YAML()` is made for every call: one that threads share breaks.

A plain scalar that some YAML reader could take for a number, a date or a word is double-quoted, because Compose, the
gate and an operator's tools do not all read the same version of YAML.
"""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from typing import Any, Final, cast

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, ScalarString
from ruamel.yaml.tokens import CommentToken

_PLACEHOLDER: Final = re.compile(r"<([a-z_]+(?::[0-9]+)?)>")
_NUMBER_OR_DATE = r"[-+]?\.?[0-9][0-9a-fotxz_:.+ -]*|[-+]?\.(inf|nan)"
_AMBIGUOUS: Final = re.compile(rf"{_NUMBER_OR_DATE}|y|n|yes|no|on|off|true|false|null|~", re.IGNORECASE)
_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_./ -]*[A-Za-z0-9_./-]|[A-Za-z_]")


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template document."""

    _tree: bytes

    @classmethod
    def parse(cls, text: str) -> "Template":
        """The template in `text`."""
        return cls(pickle.dumps(load(text)))

    def filled(self, values: Mapping[str, str]) -> str:
        """The document with its placeholders replaced; one without a value stays as it is."""
        # A copy by pickle costs a tenth of a deep copy, and comments survive it.
        tree = pickle.loads(self._tree)  # noqa: S301 - made in this process, never read from outside
        fill(tree, values)
        return dump(tree)


def load(text: str) -> Any:
    """The tree of a document, with its comments."""
    return _yaml().load(text)


def dump(tree: Any) -> str:
    """The text of a tree."""
    stream = StringIO()
    _yaml().dump(tree, stream)
    return stream.getvalue()


def fill(node: Any, values: Mapping[str, str]) -> None:
    """Replaces the placeholders below `node`, in comments too."""
    match node:
        case CommentedMap():
            for key in [key for key in node if _PLACEHOLDER.search(key)]:
                _rename(node, key, _filled(key, values))
            for key, child in node.items():
                _fill_child(node, key, child, values)
        case _:
            for index, child in enumerate(node):
                _fill_child(node, index, child, values)
    for token in _comments(node.ca):
        token.value = _replaced(token.value, values)


def document(value: Any, heading: str) -> str:
    """A JSON value as YAML under a comment; lists of scalars stand on one line, keys keep their order."""
    return heading + dump(_node(value))


def written(text: str) -> str:
    """`text` as it is written by hand where a scalar stands in a comment."""
    return f'"{text}"' if _AMBIGUOUS.fullmatch(text) else text


class _Representer(RoundTripRepresenter):
    """Writes what every version of YAML reads as the same JSON value."""

    def represent_null(self, _: None) -> Any:
        return self.represent_scalar("tag:yaml.org,2002:null", "null")

    def represent_number(self, number: float) -> Any:
        mantissa, e, exponent = repr(number).partition("e")
        # YAML 1.1 sees no number in 5e-3.
        text = mantissa if "." in mantissa else f"{mantissa}.0"
        return self.represent_scalar("tag:yaml.org,2002:float", text + e + exponent)


_Representer.add_representer(type(None), _Representer.represent_null)
_Representer.add_representer(float, _Representer.represent_number)


def _yaml() -> YAML:
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.preserve_quotes = True
    yaml.width = 1 << 30
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _fill_child(parent: Any, key: Any, child: Any, values: Mapping[str, str]) -> None:
    if isinstance(child, str):
        if _PLACEHOLDER.search(child):
            parent[key] = _filled(child, values)
    elif isinstance(child, CommentedMap | CommentedSeq):
        fill(child, values)


def _filled(scalar: str, values: Mapping[str, str]) -> str:
    text = _replaced(scalar, values)
    if isinstance(scalar, ScalarString):
        return cast("str", type(scalar)(text))
    return DoubleQuotedScalarString(text) if _AMBIGUOUS.fullmatch(text) else text


def _replaced(text: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), text)


def _rename(parent: CommentedMap, old: str, new: str) -> None:
    position = list(parent).index(old)
    comment = parent.ca.items.pop(old, None)
    parent.insert(position, new, parent.pop(old))
    if comment is not None:
        parent.ca.items[new] = comment


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


def _node(value: Any) -> Any:
    match value:
        case dict():
            return CommentedMap({_scalar(key): _node(child) for key, child in value.items()})
        case list():
            sequence = CommentedSeq([_node(child) for child in value])
            if not any(isinstance(child, dict | list) for child in value):
                sequence.fa.set_flow_style()
            return sequence
        case str():
            return _scalar(value)
        case _:
            return value


def _scalar(text: str) -> str:
    plain = _PLAIN.fullmatch(text) and not _AMBIGUOUS.fullmatch(text)
    return text if plain else DoubleQuotedScalarString(text)
