"""Turns values into documents for JSON and YAML. Pure.

The fields of a value are those of its document, in their order. A view is a frozen dataclass that
exists to be shown: its field names are part of the interface (ADR 28). An underscore at the end of
a name, as in `from_`, is not part of it.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

from pydantic import BaseModel

_LARGEST_NUMBER: Final = 2**53
"""Up to this every integer is exact in a double, which is what many JSON parsers read."""
INLINE: Final = {"inline": True}
"""Metadata of a field that has no name in the document: the fields of its value take its place.

If the value is None, the document has none of them.
"""


def to_document(value: object) -> Any:
    """The value as plain dicts, lists, texts and numbers. An integer above 2^53 is text.

    Raises:
        TypeError: the value is of a type that has no form in a document.
    """
    if value is None or isinstance(value, bool | int | float):
        is_exact = not isinstance(value, int) or abs(value) <= _LARGEST_NUMBER
        return value if is_exact else str(value)
    if isinstance(value, str):
        return str(value)  # YAML knows no members of an enumeration
    if isinstance(value, Mapping):
        return {str(name): to_document(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_document(inner) for inner in value]
    if isinstance(value, BaseModel):
        return to_document(value.model_dump(mode="json"))
    if is_dataclass(value) and not isinstance(value, type):
        return _object(value)
    raise TypeError(f"{type(value).__name__} has no form in a document")


def _object(value: Any) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for field in fields(value):
        inner = to_document(getattr(value, field.name))
        if field.metadata.get("inline"):
            document |= inner or {}
        else:
            document[field.name.removesuffix("_")] = inner
    return document
