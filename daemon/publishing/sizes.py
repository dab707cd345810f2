"""Size limits of the objects that are read from a bucket (ADR 25).

The table of them is in docs/publication.md. A limit is above everything that this project can
write, and `publisher` checks it before it writes. An object beyond its limit counts as damaged: at
most as many of its bytes are read as the limit allows, and none of them is used.
"""

from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20

POINTER: Final = 16 * MIB
"""The largest pointer has about 8 MiB: 100 publications of 1 KiB, 128 changes of up to 40 KiB (a
collection that releases 98 publications), and 256 quarantines with reasons of 2,000 characters."""
CHUNK: Final = POINTER
"""64 changes that were in the history of a pointer before."""
MANIFEST: Final = 64 * MIB
"""A composition of 32 MiB (the most that limits.composition_bytes allows), the digests of 16,384
files, and the events of one batch."""
SIGNATURE: Final = 16 * MIB
"""A statement with the path and digest of 16,384 files, in base64, and 16 signatures."""
FRESHNESS: Final = 64 * KIB
BUCKET_ID: Final = 4 * KIB
"""An id and the time of its creation."""
STAMP: Final = 40 * MIB
"""`base/.rebundle.json` of a live tree, which another program may have written. For each model it
has less than the composition has (at most 32 MiB)."""
MARKER: Final = 32 * MIB
"""The digest, publication and version of 16,384 files, and of twice as many that are no longer
published."""
ARCHIVE: Final = 128 * MIB
"""Compressed. A reader accepts at most the size that the manifest has."""
UNPACKED: Final = 256 * MIB
"""The uncompressed tar of an archive."""
FILE: Final = 64 * MIB
"""One rendered file."""
FILES: Final = 16_384
"""Files of one publication: one for each of at most 10,000 models, and those of the bundle."""
KEPT_ASIDE: Final = 8 * MIB
"""A file of a live tree that has the size of no known version: a larger one is not read, and cannot
be kept aside."""
SIGNATURES: Final = 16
"""Signatures of one document: two during a key exchange, with room for several daemons that have
their own keys."""
LEVELS: Final = 64
"""Levels of nesting in a document: an event has at most 32, and the signature document of a proxy
comes from an event."""
MARKS: Final = 4_000_000
"""Brackets and commas of a document: a parsed value takes up to a hundred times the memory of its
bytes. 10,000 models have under a million."""

IN_THE_LOOP: Final = 64 * KIB
"""Larger bodies are decoded and verified outside of the event loop."""
