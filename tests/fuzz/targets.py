"""One function for each parser of bytes that others wrote, and the rule that all of them keep.

A parser either reads its input or raises a documented error with a printable message. A value that
it reads can be written again, and reads as the same value. Any other exception is a fault. Each
function returns whether the parser read the input. `run` calls it with mutated inputs,
`test_corpus` with the corpus.
"""

import asyncio
import contextlib
import hashlib
import json
import sqlite3
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from daemon.changes import interpret, validate_data
from daemon.publishing import layout, manifest, pointer, protocol, signatures
from daemon.publishing.bucket_identity import bucket_id
from daemon.publishing.documents import Malformed, parse
from daemon.publishing.errors import (
    KeyUnusable,
    OlderSchema,
    PolicyUnusable,
    SequenceMemoryUnusable,
    VerificationFailed,
    WrongBucket,
)
from daemon.publishing.live_tree import ownership
from daemon.publishing.live_tree.sync import LiveTree
from daemon.publishing.pointer import PreviousChunk
from daemon.publishing.reader import Reader
from daemon.publishing.trust import attestation
from daemon.publishing.trust.freshness import Freshness
from daemon.publishing.trust.keys import PublicKey
from daemon.publishing.trust.policy import TrustPolicy
from daemon.publishing.trust.sequence_memory import FileSequences
from daemon.publishing.verification import verified_files
from daemon.settings import SettingsError, load
from daemon.stores import locations
from daemon.stores.directory import tag_file
from daemon.stores.object_keys import check_folder, check_key, check_prefix
from daemon.stores.object_metadata import decoded, encoded
from daemon.stores.port import Content
from events.dialects import cloudevents
from events.errors import InvalidEvent, UnsupportedContentType
from events.journal.inserts import rejected
from events.journal.lanes import event_of
from events.model import Event
from events.strict_json import loads
from renderers.values import Scope
from tests.builders_publishing import encode_manifest
from tests.builders_runtime import InlineRuntime
from tests.support.memory_store import MemoryStore

CORPUS = Path(__file__).parent / "corpus"
SCOPE = Scope("visual-anomaly", "core-versions")
Form = Literal["json", "gzip", "text"]
"""What mutations keep, so that most inputs pass the first check."""


@dataclass(frozen=True, slots=True)
class Target:
    """A parser under test."""

    check: Callable[[bytes], bool]
    form: Form

    def seeds(self) -> tuple[Path, ...]:
        """The files of its corpus."""
        return tuple(sorted((CORPUS / self.name).iterdir()))

    @property
    def name(self) -> str:
        """Of the target and of the folder of its corpus."""
        return self.check.__name__.replace("_", "-")


def _reported(error: Exception, *, local: bool = False) -> Literal[False]:
    """The result for a documented error, whose message is for a terminal, a log or an HTTP answer.

    `local`: of input from this system, which may have text that is not UTF-8; standard error
    escapes that.
    """
    str(error).encode(errors="surrogateescape" if local else "strict")
    if isinstance(error, InvalidEvent):
        assert all(str(problem).isprintable() for problem in error.problems), error.problems
    return False


def _of_file(name: str) -> bytes:
    return (CORPUS / name).read_bytes()


# ---- events


def _known_event(event: Event) -> None:
    again = cloudevents.decode_structured(event.structured())
    assert again == event
    assert event_of(event.structured()) == event, "as the journal reads it"
    try:
        change = interpret(event)
    except InvalidEvent as error:
        _reported(error)
    else:
        assert interpret(again).digest == change.digest


def event_structured(body: bytes) -> bool:
    try:
        event = cloudevents.decode_structured(body, validate_data=validate_data)
    except InvalidEvent as error:
        return _reported(error)
    _known_event(event)
    return True


def _event_http(headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
    try:
        decoded = cloudevents.decode_http(headers, body, validate_data=validate_data)
    except (InvalidEvent, UnsupportedContentType) as error:
        return _reported(error)
    for event in decoded.events:
        _known_event(event)
    return True


def event_batch(body: bytes) -> bool:
    return _event_http([(b"content-type", b"application/cloudevents-batch+json")], body)


def event_binary(request: bytes) -> bool:
    """Header lines, an empty line, the body."""
    head, _, body = request.partition(b"\n\n")
    headers = [
        (name, value.strip())
        for name, _, value in (line.partition(b":") for line in head.split(b"\n"))
    ]
    return _event_http(headers, body)


def event_file(text: bytes) -> bool:
    try:
        events = cloudevents.decode_many(text, validate_data=validate_data)
    except InvalidEvent as error:
        return _reported(error)
    for event in events:
        _known_event(event)
    return True


def strict_json(body: bytes) -> bool:
    try:
        value = loads(body, max_bytes=1 << 20)
    except InvalidEvent as error:
        return _reported(error)
    assert loads(json.dumps(value, ensure_ascii=False).encode(), max_bytes=8 << 20) == value
    return True


# ---- documents of the bucket


def pointer_json(body: bytes) -> bool:
    try:
        read = pointer.decode(body, SCOPE)
    except (OlderSchema, VerificationFailed) as error:
        return _reported(error)
    assert pointer.decode(pointer.encode(read), SCOPE) == read
    return True


def history_chunk(body: bytes) -> bool:
    previous = PreviousChunk(
        key=layout.history(SCOPE, 1, 64, "0" * 32), sha256=hashlib.sha256(body).hexdigest()
    )
    current = protocol.absent(SCOPE).model_copy(update={"previous_chunk": previous})

    async def history() -> int:
        store = MemoryStore(InlineRuntime())
        await store.create(previous.key, Content(body))
        return len(await Reader(store, InlineRuntime()).history(current, since="9999"))

    try:
        return asyncio.run(history()) > 0
    except (OlderSchema, VerificationFailed) as error:
        return _reported(error)


def manifest_json(body: bytes) -> bool:
    try:
        read = manifest.decode(body)
        read.composition_value()
        read.defaults_value()
    except (OlderSchema, VerificationFailed) as error:
        return _reported(error)
    assert manifest.decode(encode_manifest(read)) == read
    return True


def bundle_archive(body: bytes) -> bool:
    """An archive whose digest is in the manifest, because an attacker would forge both."""
    described = manifest.decode(_of_file("manifest-json/real"))
    digests = described.archive.model_copy(
        update={"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}
    )
    described = described.model_copy(update={"archive": digests})
    try:
        files = verified_files(described, body)
    except VerificationFailed as error:
        return _reported(error)
    assert [file.path for file in files] == [file.path for file in described.files]
    return True


def live_tree_marker(body: bytes) -> bool:
    async def marker(content: bytes) -> ownership.Marker | None:
        store, runtime = MemoryStore(InlineRuntime()), InlineRuntime()
        await store.create(layout.live_tree(SCOPE, layout.MARKER), Content(content))
        found, _ = await LiveTree(store, Reader(store, runtime), runtime).marker(SCOPE)
        return found

    try:
        read = asyncio.run(marker(body))
    except OlderSchema as error:
        return _reported(error)
    assert read is None or asyncio.run(marker(read.model_dump_json(by_alias=True).encode())) == read
    return read is not None


def freshness_json(body: bytes) -> bool:
    try:
        document = parse(body)
        read = Freshness.parse(
            document.get("signed") if isinstance(document, dict) else None, SCOPE
        )
    except (Malformed, OlderSchema, VerificationFailed) as error:
        return _reported(error)
    # Only whole seconds are written.
    assert (
        Freshness.parse(json.loads(read.signed_part()), SCOPE).signed_part() == read.signed_part()
    )
    return True


def bucket_identity(body: bytes) -> bool:
    """The id that a bucket has (ADR 19)."""

    async def identity() -> str | None:
        store = MemoryStore(InlineRuntime())
        await store.create(layout.BUCKET, Content(body))
        return await bucket_id(store)

    try:
        return asyncio.run(identity()) is not None
    except WrongBucket as error:
        return _reported(error)


def signed_pointer(body: bytes) -> bool:
    policy = TrustPolicy.parse(_of_file("trust-policy/real"), "policy")
    try:
        policy.check_pointer(body, SCOPE)
    except (OlderSchema, VerificationFailed) as error:
        return _reported(error)
    return True


def publication_envelope(body: bytes) -> bool:
    try:
        payload, signed = attestation.opened(body)
    except ValueError as error:
        return _reported(error)
    assert attestation.opened(attestation.enveloped(payload, signed)) == (payload, signed)
    policy, described = (
        TrustPolicy.parse(_of_file("trust-policy/real"), "policy"),
        _of_file("manifest-json/real"),
    )
    try:
        policy.check_publication(body, manifest.decode(described), described, SCOPE)
    except VerificationFailed as error:
        return _reported(error)
    return True


def signature_list(body: bytes) -> bool:
    try:
        read = signatures.decoded(parse(body))
    except ValueError as error:
        return _reported(error)
    assert signatures.decoded([signature.document() for signature in read]) == read
    return True


def object_tags(body: bytes) -> bool:
    """The tag file of a directory. A damaged one has no entries, and no error."""
    entries = tag_file.decode_tags(body)
    assert tag_file.decode_tags(tag_file.encode_tags(entries)) == entries
    return bool(entries)


def commit_tag(body: bytes) -> bool:
    read = ownership.parsed_commit(body.decode("utf-8", "replace"))
    assert read is None or ownership.parsed_commit("{}.{}".format(*read)) == read
    return read is not None


def object_metadata(body: bytes) -> bool:
    """Lines of a name and a value, as a server returns them with an object."""
    lines = (line.partition(":") for line in body.decode("latin-1").split("\n"))
    read = decoded({name: value for name, _, value in lines})
    try:
        sent = encoded(read)
    except UnicodeEncodeError as error:
        raise AssertionError(read) from error
    assert decoded(sent) == read
    return bool(read)


# ---- files of this machine, and input of operators


def journal_problems(body: bytes) -> bool:
    """The journal's record of a refused request, in a file that another process may have written."""
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.row_factory = sqlite3.Row
        db.execute("CREATE TABLE rejected (number, intake, at, problems, size, body)")
        db.execute(
            "INSERT INTO rejected VALUES (1, 'http', 'now', ?, 2, x'7b7d')",
            (body.decode("utf-8", "replace"),),
        )
        try:
            (read,) = rejected(db, 1)
        except sqlite3.DatabaseError as error:
            return _reported(error)
    return read.number == 1


def trust_policy(body: bytes) -> bool:
    try:
        read = TrustPolicy.parse(body, "policy")
    except PolicyUnusable as error:
        return _reported(error)
    assert TrustPolicy.parse(read.written(), "policy") == read
    return True


def public_key(body: bytes) -> bool:
    try:
        read = PublicKey.parse(body.decode("utf-8", "replace"))
    except KeyUnusable as error:
        return _reported(error)
    assert PublicKey.parse(read.pem) == read
    return True


def accepted_sequences(body: bytes) -> bool:
    """The file in which a reader stores the sequences that it accepted."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(body)
        try:
            return (
                asyncio.run(
                    FileSequences(Path(file.name), "bucket", InlineRuntime()).highest(SCOPE)
                )
                > 0
            )
        except SequenceMemoryUnusable as error:
            return _reported(error)


def _settings(environ: Mapping[str, str], file: Path | None, *, secrets: bool) -> bool:
    try:
        loaded = load({}, environ, file, secrets=secrets)
    except SettingsError as error:
        return _reported(error, local=True)
    assert loaded.shown()
    return True


def settings_file(body: bytes) -> bool:
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        Path(file.name).write_bytes(body)
        # A token file that the input names may be a terminal that never reaches its end.
        return _settings({}, Path(file.name), secrets=b"_file" not in body)


def settings_environment(body: bytes) -> bool:
    """Lines of a name and a value."""
    lines = (
        line.partition("=")
        for line in body.decode("utf-8", "surrogateescape").split("\n")
        if "\0" not in line
    )
    environ = {name: value for name, _, value in lines if name.startswith("REBUNDLE_")}
    return _settings(environ, None, secrets=b"_file" not in body.lower())


def bucket_location(body: bytes) -> bool:
    text = body.decode("utf-8", "surrogateescape")
    try:
        read = locations.parse(text)
    except ValueError as error:
        return _reported(error, local=True)
    assert locations.spelled(locations.spelled(text)) == locations.spelled(text)
    return bool(str(read))


def object_key(body: bytes) -> bool:
    text = body.decode("utf-8", "surrogateescape")
    try:
        for check in (check_prefix, check_folder, check_key):
            assert check(text if check is not check_folder else f"{text}/") in {text, f"{text}/"}
    except ValueError as error:
        return _reported(error, local=True)
    return True


TARGETS = {
    target.name: target
    for target in (
        Target(event_structured, "json"),
        Target(event_batch, "json"),
        Target(event_binary, "text"),
        Target(event_file, "json"),
        Target(strict_json, "json"),
        Target(pointer_json, "json"),
        Target(history_chunk, "json"),
        Target(manifest_json, "json"),
        Target(bundle_archive, "gzip"),
        Target(live_tree_marker, "json"),
        Target(freshness_json, "json"),
        Target(bucket_identity, "json"),
        Target(signed_pointer, "json"),
        Target(publication_envelope, "json"),
        Target(signature_list, "json"),
        Target(object_tags, "json"),
        Target(commit_tag, "text"),
        Target(object_metadata, "text"),
        Target(journal_problems, "json"),
        Target(trust_policy, "json"),
        Target(public_key, "text"),
        Target(accepted_sequences, "json"),
        Target(settings_file, "text"),
        Target(settings_environment, "text"),
        Target(bucket_location, "text"),
        Target(object_key, "text"),
    )
}
