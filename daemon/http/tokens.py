"""The tokens in use: those from files are read again when their files change, so that no restart is needed.

A file that cannot be used leaves the token as it was: a mistake while a token is exchanged must not shut everybody out.
It is reported until it can be used again (`/attention`).
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import structlog

from daemon import localfiles
from daemon.http.auth import Credentials

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

TokenName = Literal["token", "rollback_token"]


class Tokens:
    """`files`: where each token comes from that does not come from the environment."""

    def __init__(self, credentials: Credentials, files: Mapping[TokenName, Path]) -> None:
        self._credentials = credentials
        self._files = files
        self._seen: dict[TokenName, tuple[int, ...]] = {}
        self.failing: Mapping[str, str] = {}
        """Files that could not be used when they were last read, and why; their former token counts. Another mapping
        each time: `refresh` runs in another thread than those who look."""

    def current(self) -> Credentials:
        """Those that count now."""
        return self._credentials

    def refresh(self) -> None:
        """Read again what has changed. Blocks."""
        failing: dict[str, str] = {}
        for name, path in self._files.items():
            try:
                self._refresh(name, path)
            except (OSError, localfiles.Unsafe, ValueError) as error:
                why = failing[str(path)] = getattr(error, "strerror", None) or str(error)
                if self.failing.get(str(path)) != why:
                    log.warning("token file not usable, the former token counts", file=str(path), error=why)
        self.failing = failing

    def _refresh(self, name: TokenName, path: Path) -> None:
        found = path.stat()
        seen = (found.st_dev, found.st_ino, found.st_mode, found.st_uid, found.st_size, found.st_mtime_ns)
        if self._seen.get(name) == seen:
            return
        changed = replace(self._credentials, **{name: localfiles.read_token(path)})
        if changed.token == changed.rollback_token:
            raise ValueError("is the other role's token, too: rolling back needs one of its own")
        if changed != self._credentials:
            log.info("token read again", file=str(path))
        self._credentials = changed
        self._seen[name] = seen
