"""Writes JSON documents as YAML.

The proxy's signature grows with the models and comes with every explicit state, so speed matters.
The output is byte for byte that of ruamel.yaml, at a thirtieth of its cost. `yaml_templates` writes
the single scalars, and all YAML with comments or templates.
"""

import json
from typing import Any

from renderers.yaml_templates import is_simple_key, plain_or_quoted


def as_yaml(document: dict[str, Any], heading: str) -> str:
    """A JSON object as YAML below a comment.

    Lists of scalars are on one line, and keys keep their order. Every version of YAML reads it as
    the same JSON value.
    """
    return heading + "".join(f"{line}\n" for line in _yaml_lines(document))


def _yaml_lines(value: Any) -> list[str]:
    """The YAML lines of a JSON value, with the value in the first column."""
    match value:
        case dict() if value:
            return [line for key, child in value.items() for line in _entry(key, child)]
        case list() if any(isinstance(child, dict | list) for child in value):
            return [line for child in value for line in _with_mark("  - ", _yaml_lines(child))]
        case _:
            return [_inline(value)]


def _entry(key: str, child: Any) -> list[str]:
    name, lines = plain_or_quoted(key), _yaml_lines(child)
    if not is_simple_key(key):
        return [f"? {name}", *_with_mark(": ", lines)]
    if isinstance(child, dict) and child:
        return [f"{name}:", *(f"  {line}" for line in lines)]
    if lines[0].startswith("  - "):
        return [f"{name}:", *lines]
    return [f"{name}: {lines[0]}"]


def _with_mark(mark: str, lines: list[str]) -> list[str]:
    """The lines with `mark` before the first and the other lines indented to match."""
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
            # YAML 1.1 does not read 5e-3 as a number.
            return (mantissa if "." in mantissa else f"{mantissa}.0") + e + exponent
        case _:
            return json.dumps(value)
