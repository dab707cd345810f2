"""How large each kind of object may be that is read from a bucket (ADR 25; the table is in docs/publication.md).

A limit is above everything this project can write, and what is written is held against it first (`publisher`). An
object beyond its limit is damaged: it is not read, only as much of it as the limit allows.
"""

from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20

POINTER: Final = 16 * MIB
"""100 publications of 1 KiB, 128 changes of up to 40 KiB (a collection that releases 98 publications), 256
quarantines with reasons of 2,000 characters: about 8 MiB."""
CHUNK: Final = POINTER
"""64 of the changes that a pointer had."""
MANIFEST: Final = 64 * MIB
"""A composition of 32 MiB (the most that limits.composition_bytes allows), 16,384 files, the events of one batch."""
SIGNATURE: Final = 16 * MIB
"""A statement with the path and digest of 16,384 files, in base64, and 16 signatures."""
FRESHNESS: Final = 64 * KIB
BUCKET_ID: Final = 4 * KIB
"""An id and the time of its creation."""
STAMP: Final = 64 * KIB
"""`base/.rebundle.json` of a live tree, which may be somebody else's text."""
MARKER: Final = 32 * MIB
"""The digest, publication and version of 16,384 files, and of twice as many that are no longer published."""
ARCHIVE: Final = 128 * MIB
"""Compressed. A reader takes no more than the manifest says."""
UNPACKED: Final = 256 * MIB
"""The tar inside of an archive."""
FILE: Final = 64 * MIB
"""One rendered file."""
FILES: Final = 16_384
"""Of one publication: at most 10,000 models have a file each, beside those of the bundle."""
KEPT_ASIDE: Final = 8 * MIB
"""A file of a live tree whose size no known version has: a larger one is not read, and cannot be kept aside."""
SIGNATURES: Final = 16
"""Of one document: two while keys are exchanged, and room for several daemons with keys of their own."""
LEVELS: Final = 64
"""Of nesting in a document: an event nests at most 32, and a proxy's signature document comes of one."""
MARKS: Final = 4_000_000
"""Brackets and commas of a document: a value takes up to a hundred times more memory than bytes. 10,000 models have
under a million."""

IN_THE_LOOP: Final = 64 * KIB
"""What is larger is decoded and verified outside of the event loop."""
