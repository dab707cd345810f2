"""The bytes of a state: a reproducible USTAR archive, and the digests of what is in it (protocol 1).

Reproducible means the uncompressed tar: the compressed bytes depend on the zlib that made them, so a manifest has both
digests. Reading never extracts to disk and takes nothing but regular files with plain relative paths.
"""

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from daemon.publishing.errors import VerificationFailed
from renderers.cache import Cache
from renderers.model import RenderedFile, Scope, canonical_json

STAMP_PATH: Final = "base/.rebundle.json"
"""Names the state, so it is left out of the content digest: equal contents of two states compare equal."""
_MOST_BYTES: Final = 256 << 20
_OVERHEAD: Final = 2048
"""Bytes that a member takes beside its file's, about."""


@dataclass(frozen=True, slots=True)
class FileDigest:
    """One file of a state, as the manifest lists it."""

    path: str
    mode: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Archive:
    """The compressed archive and its two digests."""

    body: bytes
    sha256: str
    tar_sha256: str


@dataclass(frozen=True, slots=True)
class Member:
    """A file with all that is made of its bytes, so that it is made once."""

    file: RenderedFile
    header: bytes
    """Its block in the tar before its bytes."""
    padding: bytes
    """Zeros after its bytes, up to the next block."""
    digest: FileDigest
    listed: bytes
    """Canonical JSON, as the manifest lists it."""
    counted: bytes
    """Canonical JSON, as the content digest counts it."""


class Packer:
    """Makes members of files; those of each scope's last state are kept, and serve again where a file is the same.

    So a change of one model costs here what any archive must: joining, compressing and hashing its bytes. A file's
    bytes are compared, never looked up by a hash of them: that would cost what the digest costs.
    May be called from several threads at once.
    """

    def __init__(self, cache_bytes: int = 128 << 20) -> None:
        """`cache_bytes` bounds what is kept, over all scopes."""
        self._kept = Cache[Mapping[str, Member]](cache_bytes)

    def members(self, scope: Scope, files: Iterable[RenderedFile]) -> tuple[Member, ...]:
        """The members of an archive, sorted by the path's bytes.

        Raises:
            ValueError: USTAR cannot hold a path; no id that `renderers.identifiers` allows makes one.
        """
        last = self._kept.get(scope) or {}
        members = tuple(_member(file, last.get(file.path)) for file in sorted(files, key=_path_bytes))
        size = sum(len(member.file.body) + _OVERHEAD for member in members)
        self._kept.put(scope, {member.file.path: member for member in members}, size)
        return members


def digest_files(files: Iterable[RenderedFile]) -> tuple[FileDigest, ...]:
    """Each file's digest, sorted by the path's bytes."""
    return tuple(_digest(file) for file in sorted(files, key=_path_bytes))


def content_digest(files: Iterable[FileDigest]) -> str:
    """sha256 hex over path, mode, size and digest of every file but the stamp."""
    return _content_digest((each.path, _counted(each)) for each in files)


def content_digest_of(members: Iterable[Member]) -> str:
    """The same, of members."""
    return _content_digest((each.file.path, each.counted) for each in members)


def pack(members: Sequence[Member]) -> Archive:
    """The archive of these members. Same files, same tar."""
    pieces = [piece for member in members for piece in (member.header, member.file.body, member.padding)]
    end = 2 * tarfile.BLOCKSIZE
    pieces.append(bytes(end + -(sum(map(len, pieces)) + end) % tarfile.RECORDSIZE))
    raw = b"".join(pieces)
    # Level 1: 26 kB instead of 22 kB at 500 models, in less than half of the time.
    body = gzip.compress(raw, compresslevel=1, mtime=0)
    return Archive(body, hashlib.sha256(body).hexdigest(), hashlib.sha256(raw).hexdigest())


def unpack(body: bytes) -> tuple[RenderedFile, ...]:
    """The files of an archive.

    Raises:
        VerificationFailed: not an archive of ours.
    """
    try:
        inflate = zlib.decompressobj(wbits=31)
        raw = inflate.decompress(body, _MOST_BYTES)
        if inflate.unconsumed_tail or not inflate.eof or inflate.unused_data:
            raise VerificationFailed("the archive is cut off, has something behind its end, or is over 256 MiB")
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as tar:
            return tuple(_read_member(tar, member) for member in tar)
    except (zlib.error, tarfile.TarError, EOFError) as error:
        raise VerificationFailed(f"the archive cannot be read: {error}") from error


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> RenderedFile:
    parts = member.name.split("/")
    # Not isreg(): that is true of a sparse file, too, which may claim any size with a few bytes.
    plain = member.type in {tarfile.REGTYPE, tarfile.AREGTYPE} and not member.issparse()
    if not plain or any(part in {"", ".", ".."} for part in parts):
        raise VerificationFailed(f"the archive has an entry that is no plain file: {member.name!r}")
    content = tar.extractfile(member)
    assert content is not None
    return RenderedFile(member.name, content.read(), executable=bool(member.mode & 0o100))


def _member(file: RenderedFile, last: Member | None) -> Member:
    """`last`, if it is of the same file."""
    if last is not None and (last.file is file or last.file == file):
        return last
    header = tarfile.TarInfo(file.path)
    header.size = len(file.body)
    header.mode = int(file.mode, 8)
    try:
        block = header.tobuf(tarfile.USTAR_FORMAT)
    except ValueError as error:
        raise ValueError(f"no USTAR archive can hold the path {file.path!r}: {error}") from error
    digest = _digest(file)
    padding = bytes(-len(file.body) % tarfile.BLOCKSIZE)
    return Member(file, block, padding, digest, canonical_json(asdict(digest)).encode(), _counted(digest))


def _digest(file: RenderedFile) -> FileDigest:
    return FileDigest(file.path, file.mode, len(file.body), hashlib.sha256(file.body).hexdigest())


def _counted(file: FileDigest) -> bytes:
    return canonical_json([file.path, file.mode, file.size, file.sha256]).encode()


def _content_digest(counted: Iterable[tuple[str, bytes]]) -> str:
    rows = b",".join(row for path, row in counted if path != STAMP_PATH)
    return hashlib.sha256(b"[%b]" % rows).hexdigest()


def _path_bytes(file: RenderedFile) -> bytes:
    return file.path.encode()
