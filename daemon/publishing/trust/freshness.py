"""freshness.json: that a pointer was the newest one not long ago, where readers demand to know (protocol 4). Pure.

Somebody who can hold writes back could show an old state for ever, each part of it well signed. So a daemon signs,
again and again, which pointer is the newest, and until when that may be believed. A pointer newer than the one named
needs no more: so no moment between a write and the next freshness.json refuses anyone.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from daemon.publishing import layout
from daemon.publishing.documents import SCHEMA, check_schema
from daemon.publishing.errors import SequenceWentBack, VerificationFailed
from daemon.publishing.grammar import ScopeText, SequenceNumber, Sha256, Time, checked, fault_of, time_of
from daemon.publishing.wording import RENEW, rebuild
from renderers.model import Scope, canonical_json


class _Signed(BaseModel):
    model_config = ConfigDict(frozen=True)

    schema_: Annotated[int, Field(alias="schema", strict=True, ge=1)]
    scope: ScopeText
    sequence: SequenceNumber
    pointer_sha256: Sha256
    expires: Time


@dataclass(frozen=True, slots=True)
class Freshness:
    """What a freshness.json says."""

    scope: str
    sequence: int
    pointer_sha256: str
    expires: datetime

    @classmethod
    def of(cls, scope: Scope, sequence: int, pointer_body: bytes, expires: datetime) -> "Freshness":
        """What vouches for the pointer with these bytes."""
        return cls(str(scope), sequence, hashlib.sha256(pointer_body).hexdigest(), expires)

    @classmethod
    def parse(cls, signed: object, scope: Scope) -> "Freshness":
        """The signed part as it was read.

        Raises:
            OlderSchema: it has schema 1.
            VerificationFailed: it is none, or another scope's.
        """
        check_schema(signed, layout.freshness(scope), numbered=False)
        try:
            said = checked(_Signed, signed)
        except ValidationError as error:
            raise VerificationFailed(f"freshness.json of {scope} cannot be read: {fault_of(error)}: {RENEW}") from error
        if said.scope != str(scope):
            raise VerificationFailed(f"freshness.json of {scope} is the one of {said.scope}: {RENEW}")
        return cls(said.scope, said.sequence, said.pointer_sha256, time_of(said.expires))

    def signed_part(self) -> bytes:
        """What is signed."""
        document = {
            "schema": SCHEMA,
            "scope": self.scope,
            "sequence": self.sequence,
            "pointer_sha256": self.pointer_sha256,
            "expires": self.expires.isoformat(timespec="seconds"),
        }
        return canonical_json(document).encode()

    def check(self, pointer_body: bytes, sequence: int, now: datetime) -> None:
        """That this pointer is fresh.

        Raises:
            VerificationFailed: it is not.
        """
        if self.expires <= now:
            raise VerificationFailed(
                f"freshness.json of {self.scope} expired at {self.expires.isoformat()}, and no daemon has renewed it "
                f"since: {RENEW}"
            )
        self.check_not_older(sequence)
        if sequence == self.sequence and not self._names(pointer_body):
            raise VerificationFailed(
                f"the pointer of {self.scope} is not the one that freshness.json names: {rebuild(self.scope)}"
            )

    def check_not_older(self, sequence: int) -> None:
        """That a pointer with this sequence is no older than the one named; this never expires.

        Raises:
            WentBack: it is older.
        """
        if sequence < self.sequence:
            raise SequenceWentBack(
                f"the pointer of {self.scope} is at {sequence}, and the newest one was {self.sequence}: "
                f"an older one was put back; `rebundle recover {self.scope} --reason '…'` writes one that is newer "
                "than both"
            )

    def is_due(self, pointer_body: bytes, now: datetime, lifetime: timedelta) -> bool:
        """Whether to write it anew: it names another pointer, or half of its time is over. Two daemons do not fight."""
        return not self._names(pointer_body) or self.expires - now < lifetime / 2

    def _names(self, pointer_body: bytes) -> bool:
        return self.pointer_sha256 == hashlib.sha256(pointer_body).hexdigest()
