"""Computes what a disk may hold after a power cut.

`SimulatedDisk` is a file system in memory that knows what was synced. `crash_states` replays a
recorded log and yields, at every point of it, each disk that a cut there may leave: the bytes of an
unsynced file whole, torn or gone; each name of an unsynced folder as it was at any time since the
last sync, independent of every other name. Real journalling file systems promise more (order,
atomic renames across folders); the store must not need it.

If a log has so many unsynced parts at the same time that their combinations exceed `LIMIT`, these
represent the rest: all lost, all kept, and each part alone lost or kept.
"""

import itertools
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from daemon.stores.directory.filesystem import DirectoryEntry, Kind
from tests.support.filesystems import Mark, Operation, perform

LIMIT: Final = 128


@dataclass(eq=False, slots=True)
class _File:
    body: bytes
    executable: bool
    synced: bool = False
    number: int = field(default_factory=itertools.count().__next__)
    """Its inode."""

    def bodies(self) -> list[bytes]:
        """What may be left of it, the whole first."""
        return [self.body] if self.synced else [self.body, self.body[: len(self.body) // 2], b""]


@dataclass(eq=False, slots=True)
class _Folder:
    names: "dict[str, list[_Node | None]]" = field(default_factory=dict)
    """For each name the files it stood for since the last sync: the durable one first, the present
    one last.
    """
    forgetful: bool = True
    """False for the folder of temporary files, whose names are never synced or read."""
    twins: "dict[str, tuple[_Folder, str]]" = field(default_factory=dict)
    """For a name that was exchanged with one in another folder: that folder.

    A cut undoes both renames or neither.
    """

    def append(self, name: str, node: "_Node | None") -> None:
        if self.forgetful:
            self.names.setdefault(name, [None]).append(node)
            if name in self.twins:
                folder, other = self.twins[name]
                folder.names[other].append(folder.names[other][-1])
        else:
            self.names[name] = [node]
            self._part(name)

    def pair(self, name: str, with_folder: "_Folder", with_name: str) -> None:
        """Count the file of a temporary name along with the name that it is exchanged with."""
        self.names[name] = self.names[name][-1:] * len(with_folder.names[with_name])
        self.twins[name] = with_folder, with_name
        with_folder.twins[with_name] = self, name

    def _part(self, name: str) -> None:
        if name in self.twins:
            folder, other = self.twins.pop(name)
            folder.twins.pop(other, None)

    def sync(self) -> None:
        for name, values in list(self.names.items()):
            if name in self.twins:
                folder, other = self.twins[name]
                folder.names[other] = folder.names[other][-1:]
            if values[-1] is None:
                del self.names[name]
            else:
                self.names[name] = [values[-1]]


_Node = _File | _Folder


class SimulatedDisk:
    """Implements daemon.stores.directory.filesystem.FileSystem in memory.

    The folders down to `base` exist durably.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self._top = _Folder()
        self._locked: set[Path] = set()
        self._lock = threading.Lock()
        folder = self._top
        for part in base.parts[1:]:
            below = _Folder()
            folder.names[part] = [below]
            folder = below

    # ---- the port

    def status(self, path: Path) -> DirectoryEntry | None:
        try:
            return _entry(path.name, self._node(path))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def entries(self, folder: Path) -> Iterable[DirectoryEntry]:
        held = self._folder(folder).names
        return [_entry(name, values[-1]) for name, values in held.items() if values[-1] is not None]

    def chunks(self, path: Path) -> Iterable[bytes]:
        return [self._file(path).body]

    def write(self, path: Path, body: bytes, *, mode: int) -> None:
        self._name(path, _File(body, bool(mode & 0o100)), new=True)

    def sync(self, path: Path) -> None:
        self._file(path).synced = True

    def sync_folder(self, folder: Path) -> None:
        self._folder(folder).sync()

    def link(self, source: Path, target: Path) -> None:
        self._name(target, self._file(source), new=True)

    def rename(self, source: Path, target: Path) -> None:
        self._name(target, self._file(source))
        self._name(source, None)

    def exchange(self, one: Path, other: Path) -> None:
        there, here = self._node(other), self._node(one)
        temporary, folder = self._folder(one.parent), self._folder(other.parent)
        assert not temporary.forgetful, "only a temporary file changes places"
        temporary.pair(one.name, folder, other.name)
        temporary.names[one.name].append(there)
        folder.names[other.name].append(here)

    def unlink(self, path: Path) -> None:
        self._file(path)
        self._name(path, None)

    def mkdir(self, folder: Path) -> None:
        self._name(folder, _Folder(forgetful=not folder.match(".rebundle/tmp")), new=True)

    def rmdir(self, folder: Path) -> None:
        if self.entries(folder):
            raise OSError(39, "Directory not empty", str(folder))
        self._name(folder, None)

    @contextmanager
    def lock(self, path: Path) -> Iterator[bool]:
        with self._lock:
            taken = path not in self._locked
            self._locked.add(path)
        try:
            yield taken
        finally:
            if taken:
                self._locked.discard(path)

    # ---- power cuts

    def cuts(self) -> "Iterator[SimulatedDisk]":
        """Every disk that a cut at this moment may leave, each once."""
        seen = set()
        for choice in _choices(self.open_questions()):
            left = SimulatedDisk(self.base)
            left._top = _cut(self._top, choice)
            snapshot = frozenset(left.files().items()), left.folders()
            if snapshot not in seen:
                seen.add(snapshot)
                yield left

    def files(self) -> dict[Path, tuple[bytes, bool]]:
        """Body and executability of every file."""
        return {
            path: (node.body, node.executable)
            for path, node in _walk(Path("/"), self._top)
            if isinstance(node, _File)
        }

    def folders(self) -> frozenset[Path]:
        return frozenset(
            path for path, node in _walk(Path("/"), self._top) if isinstance(node, _Folder)
        )

    def write_to(self, folder: Path) -> None:
        """Write the content below the base into a real folder."""
        for path in sorted(self.folders()):
            if path.is_relative_to(self.base):
                (folder / path.relative_to(self.base)).mkdir(exist_ok=True)
        for path, (body, executable) in self.files().items():
            target = folder / path.relative_to(self.base)
            target.write_bytes(body)
            target.chmod(0o755 if executable else 0o644)

    def open_questions(self) -> "dict[_Question, int]":
        """Every choice of a cut, with the number of its alternatives."""
        found: dict[_Question, int] = {}
        waiting: list[_Node] = [self._top]
        known: set[int] = set()
        while waiting:
            node = waiting.pop()
            if id(node) in known:
                continue
            known.add(id(node))
            if isinstance(node, _File):
                found[_Question(id(node), "")] = len(node.bodies())
                continue
            for name, values in node.names.items():
                answers = values if node.forgetful else values[-1:]
                found[_Question(id(node), name)] = len(answers)
                waiting.extend(value for value in answers if value is not None)
        return {question: answers for question, answers in found.items() if answers > 1}

    # ---- names

    def _node(self, path: Path) -> _Node:
        node: _Node = self._top
        for part in path.parts[1:]:
            if not isinstance(node, _Folder):
                raise NotADirectoryError(20, "Not a directory", str(path))
            values = node.names.get(part, [None])
            if values[-1] is None:
                raise FileNotFoundError(2, "No such file or directory", str(path))
            node = values[-1]
        return node

    def _folder(self, path: Path) -> _Folder:
        node = self._node(path)
        if not isinstance(node, _Folder):
            raise NotADirectoryError(20, "Not a directory", str(path))
        return node

    def _file(self, path: Path) -> _File:
        node = self._node(path)
        if not isinstance(node, _File):
            raise IsADirectoryError(21, "Is a directory", str(path))
        return node

    def _name(self, path: Path, node: _Node | None, *, new: bool = False) -> None:
        folder = self._folder(path.parent)
        if new and folder.names.get(path.name, [None])[-1] is not None:
            raise FileExistsError(17, "File exists", str(path))
        folder.append(path.name, node)


@dataclass(frozen=True, slots=True)
class CrashState:
    """A disk that a cut may leave, with the length of the log and the marks by then."""

    position: int
    marks: tuple[str, ...]
    disk: SimulatedDisk


def crash_states(log: Sequence[Operation | Mark], base: Path) -> Iterator[CrashState]:
    """Every disk that a power cut at any point of the log may leave.

    The folder `base` existed before, empty.
    """
    disk = SimulatedDisk(base)
    marks: tuple[str, ...] = ()
    for position, step in enumerate([Mark("start"), *log]):
        if isinstance(step, Mark):
            marks = (*marks, step.label)
        else:
            perform(disk, step)
        for left in disk.cuts():
            yield CrashState(position, marks, left)


@dataclass(frozen=True, slots=True)
class _Question:
    node: int
    name: str


def _choices(questions: "dict[_Question, int]") -> Iterator[dict[_Question, int]]:
    """Alternatives of each choice, counted from the newest backwards."""
    if math.prod(questions.values()) <= LIMIT:
        for answers in itertools.product(*(range(count) for count in questions.values())):
            yield dict(zip(questions, answers, strict=True))
        return
    kept = dict.fromkeys(questions, 0)
    lost = {question: count - 1 for question, count in questions.items()}
    yield kept
    yield lost
    for question, count in questions.items():
        for answer in range(count):
            yield {**kept, question: answer}
            yield {**lost, question: answer}


def _cut(folder: _Folder, choice: dict[_Question, int]) -> _Folder:
    left = _Folder(forgetful=folder.forgetful)
    for name, values in folder.names.items():
        owner, shown = (
            (folder, name) if folder.forgetful else folder.twins.get(name, (folder, name))
        )
        node = values[-1 - choice.get(_Question(id(owner), shown), 0)]
        if isinstance(node, _Folder):
            left.names[name] = [_cut(node, choice)]
        elif isinstance(node, _File):
            body = node.bodies()[choice.get(_Question(id(node), ""), 0)]
            left.names[name] = [_File(body, node.executable, synced=True)]
    return left


def _walk(path: Path, folder: _Folder) -> Iterator[tuple[Path, _Node]]:
    for name, values in folder.names.items():
        node = values[-1]
        if node is None:
            continue
        yield path / name, node
        if isinstance(node, _Folder):
            yield from _walk(path / name, node)


def _entry(name: str, node: _Node | None) -> DirectoryEntry:
    if isinstance(node, _File):
        return DirectoryEntry(
            name,
            Kind.FILE,
            len(node.body),
            device=0,
            inode=node.number,
            modified_ns=0,
            changed_ns=0,
        )
    return DirectoryEntry(
        name, Kind.FOLDER, 0, device=0, inode=id(node), modified_ns=0, changed_ns=0
    )
