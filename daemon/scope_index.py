"""Which models each scope has, so that an event that names no scopes goes only to scopes that may
have its model.

An entry belongs to one version of a scope's pointer. It says nothing once the pointer has changed,
so a caller that leaves a scope out has to confirm that the pointer still has that version (ADR 34).
Pure.
"""

from dataclasses import dataclass
from typing import Final

from daemon.stores.port import Version
from renderers.cache import Cache
from renderers.composition import Composition

_MAX_MODELS: Final = 500_000
"""Of all scopes together: about 50 MB of names."""


@dataclass(frozen=True, slots=True)
class _Entry:
    version: Version
    models: frozenset[str]


class ScopeIndex:
    """The models of the desired composition of each scope, at one version of its pointer."""

    def __init__(self) -> None:
        self._entries = Cache[_Entry](_MAX_MODELS)

    def put(self, scope: str, version: Version | None, desired: Composition | None) -> None:
        """Store the models of a scope at this version of its pointer.

        `version` is None if there is no pointer, and `desired` if there is no composition.
        """
        if version is None:
            self.forget(scope)
            return
        known = self._entries.get(scope)
        if known is None or known.version != version:
            models = frozenset(desired.model_ids if desired else ())
            self._entries.put(scope, _Entry(version, models), len(models) + 1)

    def forget(self, scope: str) -> None:
        """Drop the entry of a scope."""
        self._entries.pop(scope)

    def version_without(self, scope: str, model: str) -> Version | None:
        """The version of the pointer at which the scope does not have this model; None if it has
        the model, or nothing is known.
        """
        entry = self._entries.get(scope)
        return None if entry is None or model in entry.models else entry.version
