"""The tokens in use: those from files are read again when their files change, so that no restart is needed.

A file that cannot be used leaves the token as it was: a mistake while a token is exchanged must not shut everybody out.
It is reported until it can be used again (`/attention`).
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

_Figures = tuple[int, ...]
"""What tells that a file was changed, without a read."""


class Tokens:
    """`files`: where each token comes from that does not come from the environment."""

    def __init__(self, credentials: Credentials, files: Mapping[TokenName, Path]) -> None:
        self._credentials = credentials
        self._files = files
        self._seen: dict[TokenName, _Figures] = {}
        self.failing: Mapping[str, str] = {}
        """Files that could not be used when they were last read, and why; their former token counts. Another mapping
        each time: `refresh` runs in another thread than those who look."""

    def current(self) -> Credentials:
        """Those that count now."""
        return self._credentials

    def refresh(self) -> None:
        """Read again what has changed. Blocks."""
        failing: dict[str, str] = {}
        changed: dict[TokenName, tuple[str, _Figures]] = {}
        for name, path in self._files.items():
            try:
                figures = _figures(path)
                if self._seen.get(name) != figures:
                    changed[name] = local_files.read_token(path), figures
            except (OSError, local_files.Unsafe, ValueError) as error:
                failing[str(path)] = getattr(error, "strerror", None) or str(error)
        # All of them before they are compared: the two roles may exchange their tokens.
        credentials = replace(self._credentials, **{name: token for name, (token, _) in changed.items()})
        if changed and credentials.token == credentials.rollback_token:
            why = "is the other role's token, too: rolling back needs one of its own"
            failing |= {str(self._files[name]): why for name in changed}
        else:
            self._take(credentials, changed)
        for file in failing.keys() - {file for file, why in self.failing.items() if failing.get(file) == why}:
            log.warning("token file not usable, the former token counts", file=file, error=failing[file])
        self.failing = failing

    def _take(self, credentials: Credentials, changed: Mapping[TokenName, tuple[str, _Figures]]) -> None:
        for name, (token, figures) in changed.items():
            if token != getattr(self._credentials, name):
                log.info("token read again", file=str(self._files[name]))
            self._seen[name] = figures
        self._credentials = credentials


def _figures(path: Path) -> _Figures:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_mode, found.st_uid, found.st_size, found.st_mtime_ns
