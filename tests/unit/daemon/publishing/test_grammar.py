"""Every field of every stored document has a rule.

A value that breaks its rule is damage of the document.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.publishing import archive, grammar, layout, manifest, pointer
from daemon.publishing.documents import check_schema, parse, serialised
from daemon.publishing.errors import OlderSchema, VerificationFailed
from daemon.publishing.grammar import MOST_SEQUENCE, time_of
from daemon.publishing.live_tree import ownership
from daemon.publishing.pointer import PreviousChunk
from daemon.publishing.trust import attestation
from daemon.publishing.trust.freshness import Freshness
from daemon.publishing.verification import verified_files
from renderers.values import canonical_json
from tests.builders_publishing import SCOPE, encode_manifest

STORED = Path(__file__).parents[3] / "data" / "stored"
FOLDERS = [STORED / "schema-2"]
"""Of the schemas that this release reads."""
NEWEST = FOLDERS[-1]
SHA = "0" * 64
NAME = "state-1@" + "a" * 32


def read_pointer(body: bytes) -> bytes:
    return pointer.encode(pointer.decode(body, SCOPE))


def read_chunk(body: bytes) -> bytes:
    return pointer.encode_chunk(pointer.decode_chunk(body, "the key", SCOPE))


def read_manifest(body: bytes) -> bytes:
    read = manifest.decode(body)
    try:
        read.composition_value()
        read.defaults_value()
    except VerificationFailed:
        pass  # it is damaged, and can still be written again
    attestation.statement_of(read, body)
    return encode_manifest(read)


def read_marker(body: bytes) -> bytes:
    document = parse(body)
    check_schema(document, "the marker", numbered=False)
    return serialised(
        grammar.checked(ownership.Marker, document).model_dump(mode="json", by_alias=True)
    )


def read_freshness(body: bytes) -> bytes:
    document = parse(body)
    said = Freshness.parse(document["signed"], SCOPE)
    return serialised(
        {"signed": json.loads(said.signed_part()), "signatures": document["signatures"]}
    )


Read = Callable[[bytes], bytes]
"""Decodes and encodes again."""
KINDS: dict[str, Read] = {
    "pointer": read_pointer,
    "pointer.long": read_pointer,
    "pointer.recovered": read_pointer,
    "chunk": read_chunk,
    "manifest": read_manifest,
    "marker": read_marker,
}
STORED_DOCUMENTS = [
    pytest.param(folder / f"{kind}.json", read, id=f"{folder.name}-{kind}")
    for folder in FOLDERS
    for kind, read in (KINDS | {"freshness": read_freshness}).items()
]


@pytest.mark.parametrize(("path", "read"), STORED_DOCUMENTS)
def test_stored_documents_are_read_and_round_trip(path: Path, read: Read) -> None:
    document = json.loads(path.read_bytes())
    again = json.loads(read(path.read_bytes()))
    check_kept(document.get("signed", document), again.get("signed", again))


def check_kept(before: Any, after: Any) -> None:
    """Nothing is lost; fields of later releases may have been added."""
    if isinstance(before, dict):
        assert before.keys() <= after.keys()
        for key, value in before.items():
            check_kept(value, after[key])
    elif isinstance(before, list):
        for one, other in zip(before, after, strict=True):
            check_kept(one, other)
    else:
        assert before == after


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda item: item.name)
def test_a_stored_archive_matches_its_manifest(folder: Path) -> None:
    described = manifest.decode((folder / "manifest.json").read_bytes())
    files = verified_files(described, (folder / "bundle.tar.gz").read_bytes())
    assert archive.content_digest(archive.digest_files(files)) == described.content_digest


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda item: item.name)
def test_the_chunk_that_a_stored_pointer_names_is_found_under_its_key(folder: Path) -> None:
    named = pointer.decode((folder / "pointer.long.json").read_bytes(), SCOPE).previous_chunk
    assert named is not None
    assert layout.is_history(SCOPE, named.key)
    assert named.sha256 == hashlib.sha256((folder / "chunk.json").read_bytes()).hexdigest()


def test_a_stored_envelope_is_opened() -> None:
    body = (NEWEST / "manifest.dsse.json").read_bytes()
    payload, signatures = attestation.opened(body)
    assert attestation.enveloped(payload, signatures) == body


# ---- one field at a time


def changed(document: Any, path: str, value: object) -> bytes:
    """The document with another value at a dotted path."""
    document = copy.deepcopy(document)
    *parents, last = [
        int(item) if item.lstrip("-").isdecimal() else item for item in path.split(".")
    ]
    part = document
    for parent in parents:
        part = part[parent]
    part[last] = value
    return json.dumps(document).encode()


POINTER = json.loads((NEWEST / "pointer.long.json").read_bytes())
NO_STATES = ["../x", "a/b", "", "a@b", ".", "a\n", "a" * 129, "\u0661", 1, None]
NO_DIGESTS = ["", "0" * 63, "0" * 65, "A" * 64, SHA + "\n", 0, None]
NO_TIMES = [
    "",
    "now",
    "2026-01-01T00:00:00",
    "0001-01-01T00:00:00+00:00",
    "9999-12-31T23:59:59Z",
    "2026-02-30T00:00:00Z",
    1,
]
NO_NUMBERS = [-1, True, 1.0, "1", MOST_SEQUENCE + 1, None]
NO_NAMES = ["state-1", "a@b@c", "../x@a", "a@../x", "@", "", 1]
NO_REVISIONS = [
    1,
    1.5,
    True,
    None,
    {"producer": 1, "derived": 0},
    "",
    "1.0",
    "01",
    "1.01",
    "-1",
    "+1",
    "1.",
    ".1",
    "1.2.3",
    "1 ",
    "1\n",
    "\u0661",
    str(2**53),
    f"1.{2**53}",
]
NO_TEXTS = [1, {}, ["x"], "x" * (1 << 18)]
FIELDS: dict[str, list[Any]] = {
    "signed.schema": [True, 0, "1", "2", 2.0, None],
    "signed.scope": ["other/scope", "visual-anomaly", "../x", 1],
    "signed.sequence": NO_NUMBERS,
    "signed.write_id": ["a/b", "x" * 129, 1, None],
    "signed.kind": ["delete", 1],
    "signed.live": ["state-1", {}],
    "signed.live.state": NO_STATES,
    "signed.live.attempt": ["/etc/passwd", *NO_STATES],
    "signed.live.late": ["false", 0, 1],
    "signed.live.manifest_sha256": [*NO_DIGESTS, SHA],
    "signed.retained.0.state": NO_STATES,
    "signed.retained.0.attempt": ["/etc/passwd", *NO_STATES],
    "signed.retained.0.revision": NO_REVISIONS,
    "signed.retained.0.composition_digest": NO_DIGESTS,
    "signed.retained.0.manifest_sha256": NO_DIGESTS,
    "signed.retained.0.at": NO_TIMES,
    "signed.retained.0.superseded_at": NO_TIMES,
    "signed.retained.0.pinned": ["true", 1],
    "signed.retained.0.renderer": NO_TEXTS,
    "signed.highest_revision": NO_REVISIONS,
    "signed.gc_epoch": NO_NUMBERS,
    "signed.positions_changed": [
        {"journal:1": {"offset": -1, "at": "2026-01-01T00:00:00Z"}},
        {"journal:1": 1},
    ],
    "signed.positions": [
        {"journal:1": -1},
        {"journal:1": True},
        {"journal:1": 2**63 - 1.0},
        {"x" * 5000: 1},
    ],
    "signed.folded_events": [
        [{"identity": "0" * 15, "event": "0" * 16}],
        [{"identity": "0" * 16, "event": 1}],
    ],
    "signed.hold": [
        {"by": 1, "reason": "", "at": "2026-01-01T00:00:00Z"},
        {"by": "x", "reason": ""},
    ],
    "signed.hold.reason": NO_TEXTS,
    "signed.hold.at": NO_TIMES,
    "signed.quarantined": [
        [{"composition_digest": "x", "by": "", "reason": "", "at": "2026-01-01T00:00:00Z"}]
    ],
    "signed.history.0.sequence": NO_NUMBERS,
    "signed.history.0.write_id": ["a/b", 1],
    "signed.history.0.published": [[name] for name in NO_NAMES],
    "signed.history.0.live": NO_NAMES,
    "signed.history.0.desired": NO_NAMES,
    "signed.history.0.at": [*NO_TIMES, None],
    "signed.history.0.by": NO_TEXTS,
    "signed.history.0.reason": NO_TEXTS,
    "signed.history.0.change": [
        [],
        *(
            {name: value}
            for name in ("released", "dropped", "pinned")
            for value in ("x", [1], ["x"], ["a@/etc"])
        ),
        *({"as_of": value} for value in NO_TIMES),
        *({"lifted": value} for value in ("x", 1)),
        *(
            {"used": value}
            for value in ({"a/b": [1, SHA]}, {"a": [True, SHA]}, {"a": [1, "x"]}, {"a": [1]}, [])
        ),
        *(
            {"pin": value}
            for value in (
                {},
                {"publication": "x", "pinned": True},
                {"publication": NAME, "pinned": 1},
            )
        ),
        *({"hold": value} for value in (1, {}, {"by": "", "reason": "", "at": "now"})),
        *(
            {"quarantine": value}
            for value in (1, {}, {"composition_digest": "x", "by": "", "reason": "", "at": "now"})
        ),
        {"quarantined": [{}]},
        {"discard_newer": 1},
    ],
    "signed.previous_chunk.key": [
        "/etc/passwd",
        "other/scope/history/1.json",
        f"{SCOPE}/history/../../x.json",
        f"{SCOPE}/history/1-2-a/b.json",
        f"{SCOPE}/history/x.json",
        f"{SCOPE}/history/1.json",
        f"{SCOPE}/pointer.json",
        1,
    ],
    "signed.previous_chunk.sha256": NO_DIGESTS,
}


@pytest.mark.parametrize(
    ("path", "value"), [(path, value) for path, values in FIELDS.items() for value in values]
)
def test_an_invalid_field_of_a_pointer_is_damage_that_names_the_rule(
    path: str, value: object
) -> None:
    with pytest.raises(VerificationFailed) as error:
        pointer.decode(changed(POINTER, path, value), SCOPE)
    field = path.removeprefix("signed.").split(".")[0]
    assert field in str(error.value) or "belongs to" in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("name", ["live", "desired"])
def test_a_live_publication_that_is_not_retained_is_damage(name: str) -> None:
    document = copy.deepcopy(POINTER)
    named = document["signed"][name]
    document["signed"]["retained"] = [
        publication
        for publication in document["signed"]["retained"]
        if publication["attempt"] != named["attempt"]
    ]
    with pytest.raises(
        VerificationFailed,
        match=rf"{name}: .+ is not one of the retained.+rebundle recover {SCOPE}",
    ):
        pointer.decode(json.dumps(document).encode(), SCOPE)


TIME = "must be a time with its offset, such as 2026-01-31T12:00:00.000Z, from 1900 to 2999"
NAMES = "must be letters, digits and . _ - (128 at most), the first no mark"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("signed.retained.0.at", "now", f"retained.0.at: {TIME}"),
        ("signed.retained.0.state", "a/b", f"retained.0.state: {NAMES}"),
        (
            "signed.retained.0.composition_digest",
            "x",
            "retained.0.composition_digest: must be 64 lower-case hex digits",
        ),
        ("signed.gc_epoch", MOST_SEQUENCE + 1, f"gc_epoch: must be at most {MOST_SEQUENCE}"),
        ("signed.sequence", "1", "sequence: must be a valid integer"),
        ("signed", [], "the document: must be "),
    ],
)
def test_damage_is_reported_with_its_place_and_the_rule(
    path: str, value: object, message: str
) -> None:
    with pytest.raises(VerificationFailed) as error:
        pointer.decode(changed(POINTER, path, value), SCOPE)
    assert f"({message}" in str(error.value)


def test_a_path_that_leaves_its_folder_is_reported_with_the_rule_of_paths() -> None:
    with pytest.raises(
        VerificationFailed,
        match=r"files\.0\.path: must be a relative path without empty, '\.' or '\.\.' parts, of at most 256 bytes$",
    ):
        manifest.decode(changed(MANIFEST, "files.0.path", "../x"))


def test_the_largest_values_of_a_rule_are_read() -> None:
    assert (
        pointer.decode(changed(POINTER, "signed.gc_epoch", MOST_SEQUENCE), SCOPE).gc_epoch
        == MOST_SEQUENCE
    )
    path = "z" * 128 + "/" + "z" * 127
    assert manifest.decode(changed(MANIFEST, "files.-1.path", path)).file(path)
    with pytest.raises(VerificationFailed):
        manifest.decode(changed(MANIFEST, "files.-1.path", path + "z"))


MANIFEST = json.loads((NEWEST / "manifest.json").read_bytes())
NO_PATHS = ["/etc/passwd", "../x", "a//b", "a/./b", "", "a/", "a\n", "a\0", "x" * 300, "\ud800", 1]
MANIFEST_FIELDS: dict[str, list[Any]] = {
    "schema": [True, 0, "2", None],
    "scope": ["x", "../x", 1],
    "state": NO_STATES,
    "attempt": ["/etc/passwd", *NO_STATES],
    "revision": NO_REVISIONS,
    "at": [*NO_TIMES, None],
    "composition": [[], None],
    "composition_digest": NO_DIGESTS,
    "content_digest": NO_DIGESTS,
    "render_defaults_digest": NO_DIGESTS,
    "files.0.path": [*NO_PATHS, MANIFEST["files"][1]["path"], "zzz"],
    "files.0.mode": ["0777", "4755", 420],
    "files.0.size": [-1, True, 1.0, "1", 1 << 40],
    "files.0.sha256": NO_DIGESTS,
    "archive.sha256": NO_DIGESTS,
    "archive.tar_sha256": NO_DIGESTS,
    "archive.size": [-1, True, 1 << 40],
    "events.0.offset": [-1, True, 1.0, 2**63],
    "events.0.digest": NO_DIGESTS,
    "events.0.source": NO_TEXTS,
    "events.0.skipped": [0, "false"],
    "renderer": NO_TEXTS,
}


@pytest.mark.parametrize(
    ("path", "value"),
    [(path, value) for path, values in MANIFEST_FIELDS.items() for value in values],
)
def test_an_invalid_field_of_a_manifest_is_damage(path: str, value: object) -> None:
    with pytest.raises(VerificationFailed, match="the manifest cannot be read"):
        manifest.decode(changed(MANIFEST, path, value))


def files_of(number: int, size: int) -> bytes:
    files = [
        {"path": f"base/{item:06}", "mode": "0644", "size": size, "sha256": SHA}
        for item in range(number)
    ]
    return json.dumps(MANIFEST | {"files": files}).encode()


def test_files_that_no_archive_may_have_are_damage_before_the_archive_is_read() -> None:
    assert manifest.decode(files_of(16_384, 0))
    with pytest.raises(VerificationFailed, match="files: must be at most 16,384 files"):
        manifest.decode(files_of(16_385, 0))
    assert manifest.decode(files_of(3, 64 << 20))
    with pytest.raises(
        VerificationFailed, match="files: must have at most 268,435,456 bytes together"
    ):
        manifest.decode(files_of(4, 64 << 20))


@pytest.mark.parametrize(
    "text",
    ["2026-01-31T12:00:00.000Z", "1970-01-12T13:46:40+00:00", "2999-12-31T23:59:59.999999-23:59"],
)
def test_an_accepted_time_can_be_compared_and_moved_by_years(text: str) -> None:
    then = time_of(text)
    assert then.tzinfo is not None
    assert then - timedelta(days=36_500) < then + timedelta(days=365_000)


# ---- any mutation


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["\ud800", "../../etc", "a@b", "x" * 300, "2026-01-01T00:00:00", SHA, 2**63, 10**40, NAME]
    )
)
ARBITRARY = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    children = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, child in children:
        yield from places(child, (*path, key))


@st.composite
def mutated(draw: st.DrawFn, documents: dict[str, Any]) -> tuple[str, bytes]:
    kind = draw(st.sampled_from(sorted(documents)))
    document = copy.deepcopy(documents[kind])
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(document))))
        if not path:
            document = draw(ARBITRARY)
            continue
        part = document
        for key in path[:-1]:
            part = part[key]
        match draw(st.sampled_from(["replace", "remove", "add", "swap"])):
            case "remove":
                del part[path[-1]]
            case "add" if isinstance(part, dict):
                part[draw(st.text(max_size=8))] = draw(ARBITRARY)
            case "swap":
                other = document
                for key in draw(st.sampled_from(list(places(document)))):
                    other = other[key]
                part[path[-1]] = copy.deepcopy(other)
            case _:
                part[path[-1]] = draw(ARBITRARY)
    body = json.dumps(document).encode()
    if draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, len(body)))
        body = body[:place] + draw(st.binary(max_size=4)) + body[place:]
    return kind, body


DOCUMENTS = {kind: json.loads((NEWEST / f"{kind}.json").read_bytes()) for kind in KINDS}


@given(mutated(DOCUMENTS))
@settings(max_examples=400)
def test_a_mutated_document_is_damaged_or_can_be_written_and_read_again(
    case: tuple[str, bytes],
) -> None:
    kind, body = case
    read = KINDS[kind]
    try:
        again = read(body)
    except (VerificationFailed, OlderSchema, ValueError):
        return
    assert read(again) == again


@given(ARBITRARY)
def test_any_signed_part_is_a_freshness_or_damage(signed: object) -> None:
    try:
        said = Freshness.parse(signed, SCOPE)
    except (VerificationFailed, OlderSchema):
        return
    said.signed_part()


@given(mutated({"manifest.dsse": json.loads((NEWEST / "manifest.dsse.json").read_bytes())}))
def test_a_mutated_envelope_is_opened_or_refused(case: tuple[str, bytes]) -> None:
    try:
        payload, signatures = attestation.opened(case[1])
    except ValueError:
        return
    assert attestation.enveloped(payload, signatures) == case[1]


def test_a_key_of_another_scope_or_of_no_chunk_is_not_a_history() -> None:
    good = layout.history(SCOPE, 1, 64, "a" * 32)
    assert layout.is_history(SCOPE, good)
    for key in (
        f"{SCOPE}/history/1.json",
        f"{SCOPE}/history/1-2.json",
        f"other/{good}",
        f"{good}/",
        "",
    ):
        assert not layout.is_history(SCOPE, key)


def test_a_chunk_references_chunks_of_its_scope_only() -> None:
    chunk = json.loads((NEWEST / "chunk.json").read_bytes())
    for key in ("/etc/passwd", "other/scope/history/1.json"):
        body = canonical_json(
            chunk | {"previous_chunk": PreviousChunk(key=key, sha256=SHA).model_dump()}
        ).encode()
        with pytest.raises(
            VerificationFailed, match=r"history chunk the key is damaged \(previous_chunk.key"
        ):
            pointer.decode_chunk(body, "the key", SCOPE)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"schema": 2, "entries": [1]}', b"\xff"])
def test_bytes_that_are_not_a_chunk_are_damage(body: bytes) -> None:
    with pytest.raises(VerificationFailed, match="history chunk the key is damaged"):
        pointer.decode_chunk(body, "the key", SCOPE)
