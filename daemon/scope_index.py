"""Which models each scope has, so that an event that names no scopes goes only to scopes that may
have its model.

An entry belongs to one version of a scope's pointer. It says nothing once the pointer has changed,
so a caller that leaves a scope out has to confirm that the pointer still is the one of the entry
(ADR 34). Pure.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from daemon.stores.port import Version
from renderers.cache import Cache
from renderers.composition import Composition

_MAX_MODELS: Final = 500_000
"""Of all scopes together: about 50 MB of names."""


@dataclass(frozen=True, slots=True)
class Indexed:
    """The models of the desired composition of a scope, with one pointer."""

    version: Version
    sequence: int
    """Version and sequence of the pointer."""
    models: frozenset[str]

    def has_all(self, models: AbstractSet[str | None]) -> bool:
        """Whether the scope had each of these models."""
        return models <= self.models


class ScopeIndex:
    """The newest entry of each scope."""

    def __init__(self) -> None:
        self._entries = Cache[Indexed](_MAX_MODELS)
        self.changes = 0
        """Rises whenever an entry changes."""

    def put(
        self, scope: str, version: Version | None, sequence: int, desired: Composition | None
    ) -> None:
        """Store the models that a scope has with this pointer.

        `version` is None if there is no pointer, and `desired` if there is no composition.
        """
        if version is None:
            self.forget(scope)
            return
        known = self._entries.get(scope)
        if known is None or (known.version, known.sequence) != (version, sequence):
            models = frozenset(desired.model_ids if desired else ())
            self._entries.put(scope, Indexed(version, sequence, models), len(models) + 1)
            self.changes += 1

    def forget(self, scope: str) -> None:
        """Drop the entry of a scope."""
        if self._entries.pop(scope) is not None:
            self.changes += 1

    def get(self, scope: str) -> Indexed | None:
        """The entry of a scope; None if nothing is known."""
        return self._entries.get(scope)
