"""The highest sequence of each scope that was accepted here: who has seen a pointer takes no older one (protocol 6)."""

import fcntl
import json
import os
from pathlib import Path
from typing import Protocol

from daemon import localfiles
from daemon.publishing.errors import AcceptedUnusable
from daemon.runtime import Runtime
from renderers.model import Scope


class Accepted(Protocol):
    """What readers have seen."""

    async def highest(self, scope: Scope) -> int:
        """The highest sequence that was accepted; 0 for none."""
        ...

    async def accept(self, scope: Scope, sequence: int) -> None:
        """Remember it, unless a higher one is known."""
        ...


class InProcess:
    """Implements `Accepted` for as long as the process lives."""

    def __init__(self) -> None:
        self._highest: dict[Scope, int] = {}

    async def highest(self, scope: Scope) -> int:
        """The highest sequence that was accepted; 0 for none."""
        return self._highest.get(scope, 0)

    async def accept(self, scope: Scope, sequence: int) -> None:
        """Remember it, unless a higher one is known."""
        self._highest[scope] = max(sequence, self._highest.get(scope, 0))


class InFile:
    """Implements `Accepted` for all readers of this machine, in a file; `bucket` tells its scopes from another's.

    A file that cannot be read is refused, not begun anew: who can make a reader forget can show it an old pointer.
    """

    def __init__(self, path: Path, bucket: str, runtime: Runtime) -> None:
        self._path = path
        self._bucket = bucket
        self._runtime = runtime
        self._seen = InProcess()

    async def highest(self, scope: Scope) -> int:
        """The highest sequence that was accepted; 0 for none. Raises AcceptedUnusable."""
        known = await self._runtime.offload(self._read)
        return max(await self._seen.highest(scope), known.get(self._key(scope), 0))

    async def accept(self, scope: Scope, sequence: int) -> None:
        """Remember it, durably, unless a higher one is known. Raises AcceptedUnusable."""
        if sequence > await self._seen.highest(scope):
            await self._runtime.offload(self._remember, self._key(scope), sequence)
            await self._seen.accept(scope, sequence)

    def _remember(self, key: str, sequence: int) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(localfiles.open_lock(Path(f"{self._path}.lock"))) as guard:
                fcntl.flock(guard, fcntl.LOCK_EX)
                known = self._read()
                if sequence > known.get(key, 0):
                    self._write(known | {key: sequence})
        except localfiles.Unsafe as error:
            raise AcceptedUnusable(f"{error} (trust.state_file)") from error
        except OSError as error:
            raise AcceptedUnusable(f"{self._path} cannot be written: {error.strerror} (trust.state_file)") from error

    def _key(self, scope: Scope) -> str:
        return f"{self._bucket} {scope}"

    def _read(self) -> dict[str, int]:
        try:
            found = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise AcceptedUnusable(f"{self._path}: {error}: put it back, or remove it knowingly") from error
        if not isinstance(found, dict) or not all(type(each) is int for each in found.values()):
            raise AcceptedUnusable(f"{self._path} has no sequences: put it back, or remove it knowingly")
        return found

    def _write(self, known: dict[str, int]) -> None:
        half = Path(f"{self._path}.half")
        # What a crash, or somebody else, left under this name is never written into.
        half.unlink(missing_ok=True)
        with os.fdopen(localfiles.create_private(half), "w") as file:
            json.dump(known, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        half.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
