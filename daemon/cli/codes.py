"""Exit codes of the command, as they are documented. Which error has which is in `failures`."""

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
    FAILED: "failed, or the live tree did not follow in time; with `--exit-code`: there are differences, or something "
    "needs attention",
    USAGE: "wrong usage or configuration",
    NOT_FOUND: "no such scope, state, event or file",
    CONFLICT: "refused by the scope's rules or by the daemon, or another writer was faster",
    VERIFICATION: "what is stored, or was rendered, is not what its pointer, manifest, digests or composition say",
    BACKEND: "bucket, journal or daemon cannot be reached or used",
    INTERRUPTED: "interrupted",
}
