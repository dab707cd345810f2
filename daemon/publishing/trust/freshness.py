"""freshness.json: the proof that a pointer was recently the newest one (protocol 4). Pure.

An attacker that can hold writes back could show an old state indefinitely, and all its signatures
would be valid. So a daemon regularly signs which pointer is the newest, with an expiry time. A
trust policy can require this of a reader.

A pointer that is newer than the one in freshness.json needs no proof. So readers are not refused
between a write of the pointer and the next freshness.json.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from daemon.publishing import layout
from daemon.publishing.documents import SCHEMA, check_schema
from daemon.publishing.errors import SequenceWentBack, VerificationFailed
from daemon.publishing.grammar import (
    ScopeText,
    SequenceNumber,
    Sha256,
    Time,
    checked,
    fault_of,
    time_of,
)
from daemon.publishing.wording import RENEW, rebuild
from renderers.values import Scope, canonical_json


class _Signed(BaseModel):
    model_config = ConfigDict(frozen=True)

    schema_: Annotated[int, Field(alias="schema", strict=True, ge=1)]
    scope: ScopeText
    sequence: SequenceNumber
    pointer_sha256: Sha256
    expires: Time


@dataclass(frozen=True, slots=True)
class Freshness:
    """The content of a freshness.json."""

    scope: str
    sequence: int
    pointer_sha256: str
    expires: datetime

    @classmethod
    def of(cls, scope: Scope, sequence: int, pointer_body: bytes, expires: datetime) -> "Freshness":
        """The freshness.json for the pointer with these bytes."""
        return cls(str(scope), sequence, hashlib.sha256(pointer_body).hexdigest(), expires)

    @classmethod
    def parse(cls, signed: object, scope: Scope) -> "Freshness":
        """The content of a signed part that was read.

        Raises:
            OlderSchema: it has schema 1.
            VerificationFailed: it is no freshness.json, or the one of another scope.
        """
        check_schema(signed, layout.freshness(scope), numbered=False)
        try:
            fields = checked(_Signed, signed)
        except ValidationError as error:
            raise VerificationFailed(
                f"freshness.json of {scope} cannot be read: {fault_of(error)}: {RENEW}"
            ) from error
        if fields.scope != str(scope):
            raise VerificationFailed(
                f"freshness.json of {scope} belongs to {fields.scope}: {RENEW}"
            )
        return cls(fields.scope, fields.sequence, fields.pointer_sha256, time_of(fields.expires))

    def signed_part(self) -> bytes:
        """The bytes that are signed."""
        document = {
            "schema": SCHEMA,
            "scope": self.scope,
            "sequence": self.sequence,
            "pointer_sha256": self.pointer_sha256,
            "expires": self.expires.isoformat(timespec="seconds"),
        }
        return canonical_json(document).encode()

    def check(self, pointer_body: bytes, sequence: int, now: datetime) -> None:
        """Check that this pointer is fresh.

        Raises:
            SequenceWentBack: it is older than the one named.
            VerificationFailed: freshness.json has expired, or names another pointer with the same
                sequence.
        """
        if self.expires <= now:
            raise VerificationFailed(
                f"freshness.json of {self.scope} expired at {self.expires.isoformat()}, and no "
                f"daemon has renewed it since: {RENEW}"
            )
        self.check_not_older(sequence)
        if sequence == self.sequence and not self._names(pointer_body):
            raise VerificationFailed(
                f"the pointer of {self.scope} does not match the digest in freshness.json: "
                f"{rebuild(self.scope)}"
            )

    def check_not_older(self, sequence: int) -> None:
        """Check that a pointer with this sequence is not older than the one named.

        The expiry time does not matter for this.

        Raises:
            SequenceWentBack: it is older.
        """
        if sequence < self.sequence:
            raise SequenceWentBack(
                f"the pointer of {self.scope} has sequence {sequence}, and the newest one had "
                f"{self.sequence}: an older pointer was restored, from a backup or by another "
                f"writer; `rebundle recover {self.scope} --reason '…'` writes one that is newer "
                "than both"
            )

    def is_due(self, pointer_body: bytes, now: datetime, lifetime: timedelta) -> bool:
        """Whether to renew it: it names another pointer, or half of its lifetime has passed.

        So two daemons do not keep overwriting one file.
        """
        return not self._names(pointer_body) or self.expires - now < lifetime / 2

    def _names(self, pointer_body: bytes) -> bool:
        return self.pointer_sha256 == hashlib.sha256(pointer_body).hexdigest()
