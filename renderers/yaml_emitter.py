"""JSON documents as YAML, line by line.

The signature grows with the models and comes anew with every explicit state, so it does not pass through ruamel.yaml:
what stands here is byte for byte what that would write, at a thirtieth of its price. How a single scalar is written is
`yaml`'s to say. There are no comments and no template: those are `yaml`'s too.
"""

import json
from typing import Any

from renderers.yaml_templates import is_simple_key, plain_or_quoted


def as_yaml(document: dict[str, Any], heading: str) -> str:
    """A JSON object as YAML under a comment; lists of scalars stand on one line, keys keep their order.

    Every version of YAML reads it as the same JSON value.
    """
    return heading + "".join(f"{line}\n" for line in _lines(document))


def _lines(value: Any) -> list[str]:
    """A JSON value, indented from its own first column."""
    match value:
        case dict() if value:
            return [line for key, child in value.items() for line in _entry(key, child)]
        case list() if any(isinstance(child, dict | list) for child in value):
            return [line for child in value for line in _hung("  - ", _lines(child))]
        case _:
            return [_inline(value)]


def _entry(key: str, child: Any) -> list[str]:
    name, lines = plain_or_quoted(key), _lines(child)
    if not is_simple_key(key):
        return [f"? {name}", *_hung(": ", lines)]
    if isinstance(child, dict) and child:
        return [f"{name}:", *(f"  {line}" for line in lines)]
    if lines[0].startswith("  - "):
        return [f"{name}:", *lines]
    return [f"{name}: {lines[0]}"]


def _hung(mark: str, lines: list[str]) -> list[str]:
    """Lines behind a mark that stands once, the rest below the first."""
    indent = " " * len(mark)
    return [mark + lines[0], *(indent + line for line in lines[1:])]


def _inline(value: Any) -> str:
    match value:
        case dict():
            return "{}"
        case list():
            return f"[{', '.join(map(_inline, value))}]"
        case str():
            return plain_or_quoted(value)
        case float():
            mantissa, e, exponent = repr(value).partition("e")
            # YAML 1.1 sees no number in 5e-3.
            return (mantissa if "." in mantissa else f"{mantissa}.0") + e + exponent
        case _:
            return json.dumps(value)
