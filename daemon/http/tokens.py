"""The tokens in use. Token files are read again when they change, so that no restart is needed.

An unusable file leaves the former token valid: a mistake during a rotation must not lock out all
clients. The file is reported by `/attention` until it can be used again.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import structlog

from daemon import local_files
from daemon.http.auth import Credentials

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

TokenName = Literal["token", "rollback_token"]

_Fingerprint = tuple[int, ...]
"""File metadata that changes when the file changes."""


class Tokens:
    """The current tokens; `files` has the path of each token that comes from a file."""

    def __init__(self, credentials: Credentials, files: Mapping[TokenName, Path]) -> None:
        self._credentials = credentials
        self._files = files
        self._seen: dict[TokenName, _Fingerprint] = {}
        self.failing: Mapping[str, str] = {}
        """Files that were unusable when they were last read, and why; their former token is valid.

        Each refresh replaces the mapping, because `refresh` runs in another thread than readers.
        """

    def current(self) -> Credentials:
        """The valid tokens."""
        return self._credentials

    def refresh(self) -> None:
        """Read the files that have changed. Blocks."""
        failing: dict[str, str] = {}
        changed: dict[TokenName, tuple[str, _Fingerprint]] = {}
        for name, path in self._files.items():
            try:
                fingerprint = _fingerprint(path)
                if self._seen.get(name) != fingerprint:
                    changed[name] = local_files.read_token(path), fingerprint
            except (OSError, local_files.Unsafe, ValueError) as error:
                failing[str(path)] = getattr(error, "strerror", None) or str(error)
        # Both files are read before the tokens are compared: the two roles may swap their tokens.
        credentials = replace(
            self._credentials, **{name: token for name, (token, _) in changed.items()}
        )
        if changed and credentials.token == credentials.rollback_token:
            reason = "is also the token of the other role: rollback requests need a separate token"
            failing |= {str(self._files[name]): reason for name in changed}
        else:
            self._take(credentials, changed)
        for file in failing.keys() - {
            file for file, reason in self.failing.items() if failing.get(file) == reason
        }:
            log.warning(
                "token file unusable, the former token stays valid", file=file, error=failing[file]
            )
        self.failing = failing

    def _take(
        self, credentials: Credentials, changed: Mapping[TokenName, tuple[str, _Fingerprint]]
    ) -> None:
        for name, (token, fingerprint) in changed.items():
            if token != getattr(self._credentials, name):
                log.info("token changed", file=str(self._files[name]))
            self._seen[name] = fingerprint
        self._credentials = credentials


def _fingerprint(path: Path) -> _Fingerprint:
    status = path.stat()
    return (
        status.st_dev,
        status.st_ino,
        status.st_mode,
        status.st_uid,
        status.st_size,
        status.st_mtime_ns,
    )
