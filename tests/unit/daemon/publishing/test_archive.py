"""The archive: reproducible bytes, digests of its content, and a reader that accepts only plain
files.
"""

import gzip
import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.publishing import archive
from daemon.publishing.archive import (
    Archive,
    Packer,
    content_digest,
    digest_files,
    unpack,
)
from daemon.publishing.errors import VerificationFailed
from renderers.values import STAMP_PATH, RenderedFile, Scope
from tests.builders_publishing import SCOPE, make_files

PATHS = st.lists(
    st.text("abcz-_.", min_size=1, max_size=20).filter(lambda part: part not in {".", ".."}),
    min_size=1,
    max_size=4,
).map("/".join)
FILES = st.dictionaries(PATHS, st.tuples(st.binary(max_size=2000), st.booleans()), max_size=8).map(
    lambda files: tuple(
        RenderedFile(path, body, executable) for path, (body, executable) in files.items()
    )
)


def packed(
    change: Callable[[tarfile.TarInfo], None], body: bytes = b"x", mode: int = tarfile.USTAR_FORMAT
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=mode) as tar:
        member = tarfile.TarInfo("base/file")
        member.size = len(body)
        change(member)
        tar.addfile(member, io.BytesIO(body))
    return gzip.compress(buffer.getvalue())


def pack(files: Iterable[RenderedFile], packer: Packer | None = None) -> Archive:
    return archive.pack((packer or Packer()).members(SCOPE, files))


def by_tarfile(files: Iterable[RenderedFile]) -> bytes:
    """The tar as the standard library writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for file in sorted(files, key=lambda file: file.path.encode()):
            member = tarfile.TarInfo(file.path)
            member.size, member.mode = len(file.body), int(file.mode, 8)
            tar.addfile(member, io.BytesIO(file.body))
    return buffer.getvalue()


@given(FILES, FILES)
def test_the_tar_is_the_one_that_the_standard_library_makes(
    before: tuple[RenderedFile, ...], files: tuple[RenderedFile, ...]
) -> None:
    packer = Packer()
    pack(before, packer)
    assert gzip.decompress(pack(files, packer).body) == by_tarfile(files)


@pytest.mark.parametrize(
    "path", ["a" * 100, "a" * 155 + "/" + "b" * 100, "a/" * 77 + "b" * 100, "é" * 50]
)
def test_a_long_path_is_packed_as_the_standard_library_does(path: str) -> None:
    files = [RenderedFile(path, b"x")]
    assert gzip.decompress(pack(files).body) == by_tarfile(files)


@pytest.mark.parametrize("path", ["a" * 101, "a" * 156 + "/" + "b"])
def test_a_path_that_ustar_cannot_hold_is_refused(path: str) -> None:
    with pytest.raises(
        ValueError, match=r"no USTAR archive can hold the path 'aaa.*: name is too long"
    ):
        pack([RenderedFile(path, b"x")])


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 7680, 8192, 8193, 9216, 10240, 70000])
def test_a_file_of_any_size_is_padded_as_the_standard_library_does(size: int) -> None:
    files = [RenderedFile("a", bytes(size)), RenderedFile("b", b"x", executable=True)]
    assert gzip.decompress(pack(files).body) == by_tarfile(files)


def test_unchanged_members_are_not_packed_again() -> None:
    packer, files = Packer(), make_files()
    before = packer.members(SCOPE, files)
    equal = [
        RenderedFile(file.path, bytes(bytearray(file.body)), file.executable) for file in files
    ]
    after = packer.members(SCOPE, [RenderedFile(files[0].path, b"other"), *equal[1:]])

    again = {new.file.path for new, old in zip(after, before, strict=True) if new is old}
    assert again == {file.path for file in files[1:]}


def test_a_file_that_became_executable_is_packed_again() -> None:
    packer = Packer()
    pack([RenderedFile("a", b"x")], packer)
    changed = [RenderedFile("a", b"x", executable=True)]
    assert pack(changed, packer) == pack(changed)


@pytest.mark.parametrize(("room", "kept"), [(1 << 20, 2), (5_000, 1), (100, 0)])
def test_the_members_of_the_most_recently_used_scopes_are_cached_up_to_the_limit(
    room: int, kept: int
) -> None:
    packer, files = Packer(room), [RenderedFile("a", b"x" * 1000)]
    scopes = [Scope("b", "one"), Scope("b", "two")]
    before = {scope: packer.members(scope, files)[0] for scope in scopes}
    after = {scope: packer.members(scope, files)[0] for scope in reversed(scopes)}
    assert sum(before[scope] is after[scope] for scope in scopes) == kept


def test_concurrent_threads_pack_the_same_bytes_as_one_thread() -> None:
    packer = Packer()
    states = [[*make_files(str(number)), RenderedFile("same", bytes(5000))] for number in range(40)]
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda files: pack(files, packer), states))
    assert made == [pack(files) for files in states]


@given(FILES)
def test_the_content_digest_of_members_equals_that_of_their_files(
    files: tuple[RenderedFile, ...],
) -> None:
    stamped = (*files, RenderedFile(STAMP_PATH, b"{}"))
    assert archive.content_digest_of(Packer().members(SCOPE, stamped)) == content_digest(
        digest_files(stamped)
    )


@given(FILES)
def test_unpacked_files_equal_the_packed_ones(files: tuple[RenderedFile, ...]) -> None:
    assert unpack(pack(files).body, digest_files(files)) == tuple(
        sorted(files, key=lambda file: file.path.encode())
    )


@given(FILES, st.data())
def test_the_same_files_in_any_order_are_the_same_bytes(
    files: tuple[RenderedFile, ...], data: st.DataObject
) -> None:
    assert pack(data.draw(st.permutations(files))) == pack(files)


def test_the_tar_is_ustar_sorted_by_bytes_with_owner_and_time_zero() -> None:
    made = pack(
        [
            RenderedFile("b", b"1"),
            RenderedFile("a/z", b"2"),
            RenderedFile("B", b"3", executable=True),
        ]
    )
    raw = gzip.decompress(made.body)
    assert raw[257:265] == b"ustar\x0000"
    assert made.body[4:8] == bytes(4), "gzip has a time field, too"
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == ["B", "a/z", "b"]
    assert {(m.uid, m.gid, m.mtime, m.uname, m.gname, m.linkname) for m in members} == {
        (0, 0, 0, "", "", "")
    }
    assert [member.mode for member in members] == [0o755, 0o644, 0o644]


def test_the_tar_of_known_files_has_its_known_digest() -> None:
    # Compared across Python versions: protocol 1 promises the uncompressed bytes.
    assert (
        pack(make_files("1")).tar_sha256
        == "c7f22eafc72dcc86350dfc03a3e35237bfe2e4327ca99ddb3211f884a1c970d7"
    )


def test_an_archive_has_the_digests_of_both_its_forms() -> None:
    made = pack(make_files())
    assert made.sha256 == hashlib.sha256(made.body).hexdigest()
    assert made.tar_sha256 == hashlib.sha256(gzip.decompress(made.body)).hexdigest()


def test_the_content_digest_is_that_of_canonical_path_mode_size_and_digest_by_the_paths_bytes() -> (
    None
):
    files = [RenderedFile("b", b"x"), RenderedFile("Z", b"yz", executable=True)]
    listed = [
        ["Z", "0755", 2, hashlib.sha256(b"yz").hexdigest()],
        ["b", "0644", 1, hashlib.sha256(b"x").hexdigest()],
    ]
    expected = hashlib.sha256(json.dumps(listed, separators=(",", ":")).encode()).hexdigest()
    assert content_digest(digest_files(files)) == expected


def test_the_stamp_alone_does_not_change_the_content_digest_and_everything_else_does() -> None:
    def digest(*files: RenderedFile) -> str:
        return content_digest(digest_files(files))

    plain = RenderedFile("base/a", b"1")
    assert digest(plain) == digest(plain, RenderedFile(STAMP_PATH, b"state-1"))
    others = [
        RenderedFile("base/a", b"2"),
        RenderedFile("base/b", b"1"),
        RenderedFile("base/a", b"1", executable=True),
    ]
    assert len({digest(plain), *map(digest, others)}) == 4


FILE = RenderedFile("base/file", bytes(range(256)) * 8)


def refused(body: bytes, *files: RenderedFile) -> pytest.ExceptionInfo[VerificationFailed]:
    """The error for an archive that should have these files but has not."""
    with pytest.raises(VerificationFailed, match=r"^the (archive|file) ") as error:
        unpack(body, digest_files(files))
    return error


@pytest.mark.parametrize(
    "damage",
    [
        lambda body: b"",
        lambda body: b"no gzip at all",
        lambda body: body[:-1],
        lambda body: body[: len(body) // 2],
        lambda body: body + b"x",
        lambda body: body + body,
        lambda body: gzip.compress(b"x" * 1000),
        lambda body: gzip.compress(gzip.decompress(body)[:700]),
        lambda body: gzip.compress(gzip.decompress(body)[:-1]),
        lambda body: gzip.compress(gzip.decompress(body)[:-1] + b"x"),
        lambda body: gzip.compress(gzip.decompress(body) + b"\0"),
        lambda body: gzip.compress(gzip.decompress(body) + bytes(tarfile.RECORDSIZE)),
    ],
    ids=[
        "empty",
        "no-gzip",
        "last-byte",
        "half",
        "tail",
        "second-member",
        "no-tar",
        "cut-tar",
        "cut-zeros",
        "no-zero",
        "one-zero-more",
        "one-record-more",
    ],
)
def test_a_damaged_archive_is_refused(damage: Callable[[bytes], bytes]) -> None:
    refused(damage(pack([FILE]).body), FILE)


def test_trailing_bytes_are_found_if_the_end_is_a_chunk_boundary() -> None:
    noise = b"".join(hashlib.sha256(number.to_bytes(2)).digest() for number in range(5000))
    file = RenderedFile("base/file", noise)
    raw = gzip.decompress(pack([file]).body)

    def named(length: int) -> bytes:
        """The archive with a file name of this length in its header, as padding."""
        buffer = io.BytesIO()
        with gzip.GzipFile("x" * length, "wb", 1, buffer, mtime=0) as stream:
            stream.write(raw)
        return buffer.getvalue()

    body = named(1 + -len(named(1)) % archive._PIECE)
    assert len(body) % archive._PIECE == 0
    assert unpack(body, digest_files([file])) == (file,)
    refused(body + b"x", file)


def test_a_gzip_header_may_be_longer_than_a_chunk() -> None:
    buffer = io.BytesIO()
    with gzip.GzipFile("x" * (archive._PIECE + 1), "wb", 1, buffer, mtime=0) as stream:
        stream.write(gzip.decompress(pack([FILE]).body))
    assert unpack(buffer.getvalue(), digest_files([FILE])) == (FILE,)


def test_another_format_than_gzip_is_refused() -> None:
    refused(zlib.compress(gzip.decompress(pack([FILE]).body)), FILE)


def test_read_bytes_are_counted_once() -> None:
    files = [FILE, RenderedFile("base/other", bytes(1 << 20))]
    source = archive.Inflater(pack(files).body)
    assert len(list(archive.members_of(source, digest_files(files)))) == 2
    assert source.produced == archive.size_of_tar([len(file.body) for file in files])


def inflated(bomb: bytes, *files: RenderedFile) -> int:
    """The number of bytes that a bomb decompresses to before it is refused as the archive of these
    files.
    """
    source = archive.Inflater(bomb)
    with pytest.raises(VerificationFailed):
        list(archive.members_of(source, digest_files(files)))
    return source.produced


def gnu_long_name() -> bytes:
    return packed(
        lambda member: setattr(member, "name", "base/" + "x" * (1 << 20)), mode=tarfile.GNU_FORMAT
    )


def long_pax_header() -> bytes:
    def change(member: tarfile.TarInfo) -> None:
        member.pax_headers = {"comment": "x" * (4 << 20)}

    return packed(change, mode=tarfile.PAX_FORMAT)


@pytest.mark.parametrize(
    "bomb",
    [
        lambda: gzip.compress(bytes(64 << 20)),
        lambda: packed(lambda member: None, bytes(16 << 20)),
        lambda: gzip.compress(gzip.decompress(pack([FILE]).body) + bytes(64 << 20)),
        lambda: pack([RenderedFile(f"base/{number}", b"x") for number in range(20_000)]).body,
        gnu_long_name,
        long_pax_header,
    ],
    ids=["zeros", "member", "behind-its-end", "many-members", "long-name", "pax-header"],
)
def test_a_decompression_bomb_costs_no_more_than_the_manifest_allows(
    bomb: Callable[[], bytes],
) -> None:
    body = bomb()
    assert len(body) < 1 << 20
    assert inflated(body, FILE) <= archive.size_of_tar([len(FILE.body)]) + 1


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../up", "base/../../up", "base//file", "base/./file", ".", "base/.."]
)
def test_a_path_that_the_manifest_lacks_is_refused(name: str) -> None:
    refused(packed(lambda member: setattr(member, "name", name)), RenderedFile("base/file", b"x"))


def test_a_name_that_is_not_text_is_refused() -> None:
    body = bytearray(gzip.decompress(packed(lambda member: None)))
    body[0:4] = b"\xff\xfe\xed\xa0"
    refused(gzip.compress(bytes(body)), RenderedFile("base/file", b"x"))


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.DIRTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.CONTTYPE,
        tarfile.GNUTYPE_SPARSE,
    ],
)
def test_anything_but_a_regular_file_is_refused(kind: bytes) -> None:
    def change(member: tarfile.TarInfo) -> None:
        member.type, member.linkname, member.size = kind, "base/other", 0

    refused(packed(change, b""), RenderedFile("base/file", b""))


@pytest.mark.parametrize("field", ["mtime", "uid", "gid"])
def test_a_header_with_other_values_is_refused(field: str) -> None:
    refused(packed(lambda member: setattr(member, field, 1)), RenderedFile("base/file", b"x"))


def test_a_path_that_no_archive_can_hold_is_refused() -> None:
    path = "x" * 200
    error = refused(pack([FILE]).body, RenderedFile(path, b""))
    assert (
        str(error.value) == f"the archive does not have the file '{path}' where its manifest says"
    )


def test_bytes_that_differ_from_the_manifest_are_refused() -> None:
    error = refused(pack([RenderedFile("base/file", b"x")]).body, RenderedFile("base/file", b"y"))
    assert "'base/file' in the archive does not match its digest" in str(error.value)


@given(st.data())
def test_an_archive_with_any_changed_byte_raises_only_the_documented_error(
    data: st.DataObject,
) -> None:
    files = [RenderedFile("b", b""), RenderedFile("base/file", b"x" * 600)]
    raw = bytearray(gzip.decompress(pack(files).body))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    refused(gzip.compress(bytes(raw)), *files)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(body: bytes) -> None:
    refused(body, FILE)
    refused(gzip.compress(body), FILE)
