"""The documented exit codes. `failures` maps errors to them."""

from typing import Final

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
CONFLICT: Final = 4
VERIFICATION: Final = 5
BACKEND: Final = 6
INTERRUPTED: Final = 130

MEANINGS: Final = {
    DONE: "done",
    FAILED: "failed, or the live tree did not follow in time; with `--exit-code`: differences were "
    "found, or something needs attention",
    USAGE: "invalid usage or configuration",
    NOT_FOUND: "no such scope, state, event or file",
    CONFLICT: "refused by the rules of the scope or by the daemon, or another writer was first",
    VERIFICATION: "verification failed: stored or rendered data does not match its pointer, "
    "manifest, digests or composition",
    BACKEND: "bucket, journal or daemon unreachable or unusable",
    INTERRUPTED: "interrupted",
}
