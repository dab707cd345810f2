"""The highest accepted sequence of every scope (protocol 6).

A reader that has accepted a pointer rejects an older one from then on.
"""

import json
from pathlib import Path
from typing import Final, Protocol

from daemon import local_files
from daemon.publishing.errors import SequenceMemoryUnusable
from daemon.runtime import Runtime
from renderers.values import Scope

LOCK_SECONDS: Final = 10.0
"""How long to wait for the lock. Other processes need it for milliseconds."""
_LOCK_SECONDS_AGAIN: Final = 0.5
"""The same, after a wait that ended without the lock."""
_MOST_BYTES: Final = 16 << 20
_RESTORE: Final = "restore it, or delete it to reset replay protection (trust.state_file)"


class HighestSequences(Protocol):
    """A memory of the highest accepted sequences."""

    async def highest(self, scope: Scope) -> int:
        """The highest sequence that was accepted; 0 for none."""
        ...

    async def accept(self, scope: Scope, sequence: int) -> None:
        """Remember it, unless a higher one is known."""
        ...


class ProcessSequences:
    """Implements `HighestSequences` in memory, until the process ends."""

    def __init__(self) -> None:
        self._highest: dict[Scope, int] = {}

    async def highest(self, scope: Scope) -> int:
        """The highest sequence that was accepted; 0 for none."""
        return self._highest.get(scope, 0)

    async def accept(self, scope: Scope, sequence: int) -> None:
        """Remember it, unless a higher one is known."""
        self._highest[scope] = max(sequence, self._highest.get(scope, 0))


class FileSequences:
    """Implements `HighestSequences` in a file, for all readers of this machine.

    `bucket` distinguishes its scopes from those of other buckets in the same file.

    A file that cannot be read is an error and is not replaced by an empty one. Otherwise an
    attacker that damages the file could show a reader an old pointer.
    """

    def __init__(self, path: Path, bucket: str, runtime: Runtime) -> None:
        self._path = path
        self._lock = Path(f"{path}.lock")
        self._bucket = bucket
        self._runtime = runtime
        self._seen = ProcessSequences()
        self._patience = LOCK_SECONDS

    async def highest(self, scope: Scope) -> int:
        """The highest sequence that was accepted; 0 for none. Raises SequenceMemoryUnusable."""
        known = await self._runtime.run_in_thread(self._read)
        return max(await self._seen.highest(scope), known.get(self._key(scope), 0))

    async def accept(self, scope: Scope, sequence: int) -> None:
        """Remember it durably, unless a higher one is known. Raises SequenceMemoryUnusable.

        It does not wait in a thread: callers that wait for a stopped process must not use up the
        thread pool.
        """
        if sequence <= await self._seen.highest(scope):
            return
        limit = self._runtime.monotonic() + self._patience
        while not await self._runtime.run_in_thread(self._remember, self._key(scope), sequence):
            if self._runtime.monotonic() >= limit:
                # Otherwise a command that reads many scopes would wait in full for every scope.
                self._patience = _LOCK_SECONDS_AGAIN
                raise SequenceMemoryUnusable(
                    f"{local_files.held_for(self._lock, LOCK_SECONDS)} (trust.state_file)"
                )
            await self._runtime.sleep(0.001 + 0.02 * self._runtime.jitter())
        self._patience = LOCK_SECONDS
        await self._seen.accept(scope, sequence)

    def _remember(self, key: str, sequence: int) -> bool:
        """Store the sequence, unless a higher one is stored. False if the lock is not free."""
        try:
            local_files.make_folder(self._path.parent)
            with local_files.lock(self._lock) as held:
                if held and sequence > (known := self._read()).get(key, 0):
                    written = json.dumps(known | {key: sequence}, indent=1, sort_keys=True)
                    local_files.replace(self._path, written.encode())
                return held
        except local_files.Unsafe as error:
            raise SequenceMemoryUnusable(f"{error} (trust.state_file)") from error
        except OSError as error:
            raise SequenceMemoryUnusable(
                f"{self._path} cannot be written: {error.strerror}; let this user write it, or "
                "name another file (trust.state_file)"
            ) from error

    def _key(self, scope: Scope) -> str:
        return f"{self._bucket} {scope}"

    def _read(self) -> dict[str, int]:
        try:
            sequences = json.loads(local_files.read_plain(self._path, _MOST_BYTES))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError, local_files.Unsafe) as error:
            raise SequenceMemoryUnusable(f"{self._path}: {error}: {_RESTORE}") from error
        if not isinstance(sequences, dict) or not all(
            type(sequence) is int for sequence in sequences.values()
        ):
            raise SequenceMemoryUnusable(f"{self._path} has no sequences: {_RESTORE}")
        return sequences
