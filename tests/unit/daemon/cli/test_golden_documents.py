"""The JSON documents of the commands, byte for byte (ADR 28): names, order and absence of fields.

`tests/data/documents` has one file per case. Times, random ids, digests, sizes, messages and paths
of this machine are replaced by placeholders. To accept a change, delete the file and run the test twice: it fails when it writes a file.
"""

import re
from pathlib import Path

import pytest

from daemon.publishing import operator_commands, protocol
from events.model import Outcome, OutcomeKind
from tests.builders import make_composition
from tests.support.buckets import SCOPE, composition_with, in_bucket, live_file
from tests.support.journals import in_journal, next_of

DOCUMENTS = Path(__file__).parents[3] / "data" / "documents"
OTHER = make_composition(1, bundle="other", target="edge")
BY = ("--by", "alice")
REASON = ("--reason", "bad scores", *BY)
RECOVER = ("recover", SCOPE, *REASON)

PLACEHOLDERS = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", "<time>"),
    (r"\b[0-9a-f]{64}\b", "<sha256>"),
    (r"\b[0-9A-HJKMNP-TV-Z]{26}\b|\b[0-9a-f]{32}\b", "<id>"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "<id>"),
    (r'("(?:size|bytes|seconds|clock_ahead_seconds)"): [\d.e-]+', r"\1: 0"),
    (r'("(?:renderer)"): "[^"]+"', r'\1: "<renderer>"'),
    (r'("diff"): "[^\n]+"', r'\1: "<diff>"'),
    # Messages have at least four words; other tests compare them.
    (r'"[^"\\\n ]+(?: (?:[^"\\\n ]|\\.)+){3,}"', '"<message>"'),
)


@pytest.fixture
def checked(rebundle, tmp_path, request):
    """Compares the document that a command prints with the file of this test."""
    created = []

    def check(*arguments: object, name: str = "", code: int = 0) -> None:
        case = request.node.name.removeprefix("test_") + name
        result = rebundle(*arguments, "-o", "json")
        assert result.code == code, result.err
        text = result.out.replace(str(tmp_path), "<tmp>")
        for pattern, placeholder in PLACEHOLDERS:
            text = re.sub(pattern, placeholder, text)
        file = DOCUMENTS / f"{case}.json"
        if not file.exists():
            file.write_text(text)
            created.append(file.name)
        assert text == file.read_text()

    yield check
    assert not created, "these files did not exist: review them, then run the test again"


@pytest.fixture
def varied(bucket):
    """A scope with a state for each reason not to be live, an override and hand edits; and OTHER."""

    async def vary(published):
        carry_out = published.operations.carry_out
        await carry_out(SCOPE, operator_commands.quarantine("state-2"), "op", "breaks the proxy")
        await published.publish(composition_with("1", "7"), "state-0", 2, late=True)
        await carry_out(SCOPE, operator_commands.pin("state-1", pinned=True), "op", "")
        await carry_out(SCOPE, operator_commands.pin("state-3", pinned=True), "op", "")
        await carry_out(SCOPE, operator_commands.pin("state-3", pinned=False), "op", "")
        await carry_out(SCOPE, operator_commands.quarantine("state-1"), "op", "too slow")
        await carry_out(SCOPE, operator_commands.lift_quarantine("state-1"), "op", "fine")
        await carry_out(SCOPE, protocol.hold, "op", "release freeze")
        await published.publish(composition_with("3", "3"), "state-4", 4)
        await published.publish(OTHER, "state-1", 1)

    in_bucket(bucket, vary)
    live_file(bucket, "example/conf/bundle/.env").write_text("MINE=1\n")
    live_file(bucket, "example/.env").unlink()
    live_file(bucket, "base/notes.txt").write_text("mine\n")
    live_file(bucket, "base/bundle/docker-compose.yaml").write_text("mine\n")
    live_file(bucket, "base/bundle/nginx/models.map").unlink()
    return bucket


def lifted(bucket):
    """Desired is not live: its quarantine was lifted, and nobody resumed."""

    async def lift(published):
        carry_out = published.operations.carry_out
        await carry_out(SCOPE, operator_commands.quarantine("state-2"), "op", "bad")
        await published.publish(composition_with("2"), "state-4", 4)
        await carry_out(SCOPE, operator_commands.lift_quarantine("state-4"), "op", "fine after all")

    in_bucket(bucket, lift)


def break_pointer(bucket):
    (bucket / str(OTHER.scope) / "pointer.json").write_text("{}")


def damage(bucket, state):
    for archive in (bucket / str(SCOPE) / "states" / state).glob("*/bundle.tar.gz"):
        archive.unlink()


def test_scopes(varied, checked):
    checked("scopes")
    break_pointer(varied)
    checked("scopes", name="_one_broken", code=5)


def test_status(varied, checked):
    checked("status")
    checked("status", SCOPE, name="_of_scope")
    break_pointer(varied)
    checked("status", name="_one_broken", code=5)
    checked("status", OTHER.scope, name="_of_broken_scope", code=5)


def test_status_of_a_blocked_tree(bucket, rebundle, checked):
    link = live_file(bucket, "base/bundle/nginx/models.map")
    link.unlink()
    link.symlink_to("/nowhere")
    checked("hold", SCOPE, *REASON, name="_hold")
    checked("status")


def test_status_of_a_damaged_archive(bucket, checked):
    damage(bucket, "state-3")
    checked("status", code=5)


def test_status_of_a_damaged_manifest(bucket, checked):
    (manifest,) = (bucket / str(SCOPE) / "states/state-2").glob("*/manifest.json")
    manifest.write_bytes(manifest.read_bytes() + b"x")
    checked("status", code=0)


def test_status_with_a_journal(journal, checked):
    async def fail(opened):
        delivery = await next_of(opened)
        await opened.note_failure(
            str(SCOPE), [delivery.position], "StoreUnavailable: the bucket is away"
        )

    in_journal(journal, fail)
    checked("status")
    checked("status", SCOPE, name="_of_scope")


def test_status_with_a_broken_journal(journal, checked):
    journal.write_bytes(b"no database" * 100)
    checked("status", code=6)


def test_event(journal, checked):
    async def settle(opened):
        (status,) = await opened.find("42")
        published = Outcome(OutcomeKind.PUBLISHED, "it was new", "state-1")
        await opened.settle("other/target", {status.position: published})

    in_journal(journal, settle)
    checked("status", "e1", name="_dead_lettered")
    checked("status", "e2", name="_waiting")
    checked("status", "42", name="_in_two_scopes")


def test_states(varied, checked):
    checked("states", SCOPE)


def test_states_after_a_lift(bucket, checked):
    lifted(bucket)
    checked("states", SCOPE)
    checked("status", name="_status")


def test_states_of_a_retired_scope(bucket, rebundle, checked):
    checked("retire", SCOPE, *REASON, "-y", name="_retire")
    checked("states", SCOPE)
    checked("scopes", name="_scopes")
    checked("status", name="_status")


def test_show(varied, checked):
    checked("show", SCOPE)
    checked("show", SCOPE, "state-2", "--files", name="_quarantined")


def test_diff(bucket, checked):
    checked("diff", SCOPE, "state-1", "state-3")
    checked("diff", SCOPE, "state-3", "state-1", "--name-only", name="_name_only")
    checked("diff", SCOPE, name="_empty")


def test_history(varied, checked):
    checked("history", SCOPE)


def test_history_of_a_rollback(bucket, rebundle, checked):
    assert rebundle("rollback", SCOPE, "state-1", "--discard-newer", *REASON, "-y").code == 0
    checked("history", SCOPE, "--limit", "1")


def test_verify(varied, checked):
    damage(varied, "state-2")
    checked("verify", SCOPE, code=5)


def test_verify_all(bucket, checked):
    checked("verify", "--all")


def test_verify_offline(bucket, checked):
    (manifest,) = (bucket / str(SCOPE) / "states/state-2").glob("*/manifest.json")
    checked("verify", "--offline", manifest.parent)
    (manifest.parent / "bundle.tar.gz").unlink()
    checked("verify", "--offline", manifest.parent, name="_damaged", code=5)


def test_verify_a_tree_behind(bucket, checked):
    marker = live_file(bucket, ".rebundle.json")
    marker.write_text(marker.read_text().replace('"synced"', '"updating"'))
    live_file(bucket, "base/bundle/monitoring.txt").unlink()
    checked("verify", SCOPE, "state-3")


def test_rollback(varied, checked):
    checked("rollback", SCOPE, "state-1", *REASON, "--dry-run", name="_dry_run")
    checked("rollback", SCOPE, "state-1", *REASON, "-y")
    checked("rollback", SCOPE, "state-1", *REASON, "-y", name="_unchanged")


def test_resume(varied, checked):
    checked("resume", SCOPE, *REASON, "-y")


def test_quarantine(bucket, checked):
    checked("quarantine", SCOPE, "state-1", *REASON)
    checked("quarantine", SCOPE, "state-1", *REASON, "--lift", name="_lifted")
    checked("pin", SCOPE, "state-1", *BY, name="_pin")


def test_change_that_the_tree_does_not_follow(bucket, checked):
    link = live_file(bucket, "base/bundle/docker-compose.yaml")
    link.unlink()
    link.symlink_to("/nowhere")
    checked("rollback", SCOPE, "state-1", *REASON, "-y", "--wait", "0")


def test_republish(bucket, checked):
    checked("republish", SCOPE, *REASON, "--dry-run", name="_dry_run")
    checked("republish", SCOPE, *REASON)


def test_recover(bucket, checked):
    checked(*RECOVER, "--dry-run", name="_nothing")
    (bucket / str(SCOPE) / "pointer.json").unlink()
    damage(bucket, "state-1")
    checked(*RECOVER, "--dry-run", name="_dry_run")
    checked(*RECOVER, "-y")


def test_gc(varied, checked, monkeypatch):
    checked("gc", SCOPE, "--dry-run", name="_dry_run")
    monkeypatch.setenv("REBUNDLE_RETENTION__NEWEST", "1")
    monkeypatch.setenv("REBUNDLE_RETENTION__DAYS", "0")
    checked("gc", SCOPE, *REASON)
    break_pointer(varied)
    checked("gc", "--all", "--dry-run", name="_one_broken", code=5)


def test_dead_letters(journal, checked):
    checked("dead-letters", "list")
    checked("dead-letters", "list", "--rejected", name="_rejected")
    checked("dead-letters", "show", 1, name="_show")
    checked("dead-letters", "add", "e2", "--reason", "stuck", *BY, name="_add")
    checked("dead-letters", "replay", 1, *BY, name="_replay")
    checked("dead-letters", "drop", 2, *REASON, name="_drop")
    checked("dead-letters", "list", "--all", name="_all")


def test_doctor(bucket, checked):
    checked("doctor")
