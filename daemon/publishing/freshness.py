"""freshness.json: that a pointer was the newest one not long ago, where readers demand to know (protocol 4). Pure.

Somebody who can hold writes back could show an old state for ever, each part of it well signed. So a daemon signs,
again and again, which pointer is the newest, and until when that may be believed. A pointer newer than the one named
needs no more: so no moment between a write and the next freshness.json refuses anyone.
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from daemon.publishing.errors import VerificationFailed
from renderers.model import Scope, canonical_json


def signed_part(scope: Scope, sequence: int, pointer_body: bytes, expires: datetime) -> bytes:
    """What is signed."""
    document = {
        "scope": str(scope),
        "sequence": sequence,
        "pointer_sha256": hashlib.sha256(pointer_body).hexdigest(),
        "expires": expires.isoformat(timespec="seconds"),
    }
    return canonical_json(document).encode()


def check(signed: Mapping[str, Any], scope: Scope, pointer_body: bytes, sequence: int, now: datetime) -> None:
    """Raises VerificationFailed unless the signed part says that this pointer is fresh."""
    try:
        named, named_sequence = str(signed["scope"]), int(signed["sequence"])
        digest, expires = str(signed["pointer_sha256"]), datetime.fromisoformat(signed["expires"])
        is_past = expires <= now
    except (KeyError, TypeError, ValueError) as error:
        raise VerificationFailed(f"freshness.json of {scope} cannot be read: {error}") from error
    if named != str(scope):
        raise VerificationFailed(f"freshness.json of {scope} is the one of {named}")
    if is_past:
        raise VerificationFailed(
            f"freshness.json of {scope} expired at {expires.isoformat()}: no daemon has vouched for the pointer since"
        )
    if sequence < named_sequence:
        raise VerificationFailed(f"the pointer of {scope} is at {sequence}, and the newest one was {named_sequence}")
    if sequence == named_sequence and hashlib.sha256(pointer_body).hexdigest() != digest:
        raise VerificationFailed(f"the pointer of {scope} is not the one that freshness.json names")


def is_due(signed: Mapping[str, Any] | None, sequence: int, now: datetime, lifetime: timedelta) -> bool:
    """Whether to write it anew: it names an older pointer, or half of its time is over. Two daemons do not fight so."""
    if signed is None or signed.get("sequence") != sequence:
        return True
    try:
        return datetime.fromisoformat(signed["expires"]) - now < lifetime / 2
    except (KeyError, TypeError, ValueError):
        return True
