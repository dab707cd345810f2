"""Limits on the size of a bundle, checked before anything is rendered.

The intake checks them already if the event alone shows the size. The limits on an event's bytes and
nesting are separate and belong to the decoder (`events.dialects.cloudevents`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, ConfigDict, Field

from renderers.composition import MAX_MODELS, Composition
from renderers.errors import Invalid
from renderers.platforms import PLATFORMS
from renderers.values import Value

_FILES_WITHOUT_MODELS: Final = 18


def not_boolean(value: Any) -> Any:
    """The value, unless it is a boolean, which pydantic would read as 0 or 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number")  # pydantic reports ValueErrors
    return value


# Not strict: an environment variable is text.
_Count = Annotated[int, Field(ge=1, le=10**9), BeforeValidator(not_boolean)]


@dataclass(frozen=True, slots=True)
class Excess:
    """One limit that a composition exceeds."""

    part: str
    """The part of the composition, as a JSON path below it; empty for all of it."""
    message: str
    """The message for the producer and the operator."""


class TooBig(Invalid):
    """A composition exceeds a limit: make it smaller, or have the operator raise the limit."""

    def __init__(self, excesses: tuple[Excess, ...]) -> None:
        super().__init__("; ".join(excess.message for excess in excesses))
        self.excesses = excesses


class BundleLimits(Value):
    """The limits of one bundle."""

    model_config = ConfigDict(extra="forbid")

    models: Annotated[int, Field(ge=1, le=MAX_MODELS), BeforeValidator(not_boolean)] = Field(
        2_000, description="Models of one bundle."
    )
    files: _Count = Field(5_000, description="Files of one rendered bundle.")
    # The upper bound is the largest manifest that readers accept (daemon.publishing.sizes).
    composition_bytes: Annotated[int, Field(ge=1, le=32 << 20), BeforeValidator(not_boolean)] = (
        Field(8 << 20, description="A composition's canonical JSON, in bytes; at most 33554432.")
    )
    signature_bytes: _Count = Field(
        1 << 20, description="A proxy's signature document, in bytes of JSON."
    )
    signature_depth: _Count = Field(
        24, description="Levels of nesting in a proxy's signature document."
    )

    def check(self, composition: Composition) -> None:
        """Returns if the composition is within every limit.

        Raises:
            TooBig: with each excess, its size and the setting of its limit.
        """
        excesses = tuple(self._excesses(composition))
        if excesses:
            raise TooBig(excesses)

    def _excesses(self, composition: Composition) -> Iterator[Excess]:
        signature = composition.proxy.signature
        sizes = (
            ("models", "models", len(composition.models)),
            ("files", "files", files_of(composition)),
            ("composition_bytes", "bytes", len(composition.canonical.encode())),
            (
                "signature_bytes",
                "bytes in its proxy's signature",
                len(signature.canonical.encode()),
            ),
            ("signature_depth", "levels in its proxy's signature", signature.depth),
        )
        parts = {"models": ".models", "signature": ".proxy.signature"}
        for name, what, number in sizes:
            limit = getattr(self, name)
            if number > limit:
                message = (
                    f"the bundle has {number} {what}; the limit is {limit} (setting limits.{name})"
                )
                yield Excess(parts.get(name.partition("_")[0], ""), message)


DEFAULT_LIMITS: Final = BundleLimits()


def files_of(composition: Composition) -> int:
    """The number of files of the composition's bundle."""
    platforms = (PLATFORMS[model.serving.platform] for model in composition.models)
    return _FILES_WITHOUT_MODELS + sum(not platform.no_batching for platform in platforms)
