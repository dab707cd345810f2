"""Ownership of files in the live tree: every case of protocol 5, without a store."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.publishing.live_tree.ownership import (
    Blocked,
    Commit,
    DeletedByOperator,
    Marker,
    MarkerFile,
    Override,
    PathVerdict,
    Present,
    Put,
    Remove,
    Stray,
    Unread,
    UnreadOverride,
    Wanted,
    commit_position,
    known_blocked,
    marker_after,
    marker_before,
    parsed_commit,
    plan_paths,
)
from daemon.stores.port import Version
from tests.builders_publishing import make_publication

BASE, ENV = "base/docker-compose.yml", "example/conf/bundle/.env"
V1 = Version("1")
LIVE = make_publication("state-5", 5)


def wanted(files: Mapping[str, str], commit: Commit = (5, 0)) -> Wanted:
    return Wanted(LIVE, 7, commit, files)


def marker(files: Mapping[str, tuple[str, Commit]]) -> Marker:
    recorded = {
        path: MarkerFile(sha256=sha256, publication="p@1", commit=commit)
        for path, (sha256, commit) in files.items()
    }
    return Marker(sequence=4, publication="p@1", status="synced", files=recorded)


def there(sha256: str, *, ours: bool = True, commit: Commit | None = None) -> Present:
    return Present(sha256, V1, ours, commit)


@pytest.mark.parametrize(
    ("path", "file", "expected"),
    [
        (BASE, None, Put(BASE, None)),
        (BASE, there("new"), None),
        (BASE, there("old"), Put(BASE, V1)),
        (BASE, there("foreign", ours=False), Put(BASE, V1, keep_aside=True)),
        ("README.md", there("foreign", ours=False), Put("README.md", V1, keep_aside=True)),
        (ENV, None, Put(ENV, None)),
        (ENV, there("new", ours=False), None),
        (ENV, there("foreign", ours=False), Override(ENV)),
        (ENV, there("old"), Put(ENV, V1, keep_aside=True)),
        (ENV, there("old", commit=(4, 9)), Put(ENV, V1)),
        (ENV, there("old", commit=(5, 0)), None),
        (ENV, there("old", commit=(6, 0)), None),
        ("example/creds/s3.env", there("", ours=False), None),
    ],
)
def test_decisions_for_a_file_that_live_has(
    path: str, file: Present | None, expected: PathVerdict | None
) -> None:
    present = {} if file is None else {path: file}
    assert plan_paths(wanted({path: "new"}), present, None) == (
        () if expected is None else (expected,)
    )


@pytest.mark.parametrize(
    ("path", "file", "expected"),
    [
        (BASE, there("old"), Remove(BASE, V1)),
        (BASE, there("foreign", ours=False), Stray(BASE)),
        (ENV, there("old", commit=(1, 0)), None),
        (ENV, there("foreign", ours=False), Override(ENV)),
    ],
)
def test_decisions_for_a_file_that_live_does_not_have(
    path: str, file: Present, expected: PathVerdict | None
) -> None:
    assert plan_paths(wanted({}), {path: file}, None) == (() if expected is None else (expected,))


def test_a_default_that_was_written_and_deleted_stays_deleted() -> None:
    recorded = marker({ENV: ("old", (1, 0)), BASE: ("old", (1, 0))})
    assert plan_paths(wanted({ENV: "new", BASE: "new"}), {}, recorded) == (
        Put(BASE, None),
        DeletedByOperator(ENV),
    )


@pytest.mark.parametrize(
    ("recorded", "replaced"), [((4, 0), True), ((5, 0), False), ((9, 1), False)]
)
def test_without_a_tag_the_markers_commit_position_decides(
    recorded: Commit, replaced: bool
) -> None:
    verdicts = plan_paths(
        wanted({ENV: "new"}), {ENV: there("old")}, marker({ENV: ("old", recorded)})
    )
    assert verdicts == ((Put(ENV, V1),) if replaced else ())


def test_the_tag_of_a_file_takes_precedence_over_the_marker() -> None:
    present = {ENV: there("old", commit=(6, 0))}
    assert plan_paths(wanted({ENV: "new"}), present, marker({ENV: ("older", (1, 0))})) == ()


def test_the_marker_gains_written_files_and_loses_removed_ones() -> None:
    before = marker({BASE: ("old", (1, 0)), "base/gone": ("x", (1, 0)), ENV: ("default", (1, 0))})
    plan = wanted({BASE: "new", ENV: "default", "example/new": "n"})
    present = {BASE: there("old"), "base/gone": there("x"), ENV: there("default")}
    verdicts = plan_paths(plan, present, before)
    after = marker_after(
        before,
        plan,
        present,
        verdicts,
        {BASE: Version("8"), "base/gone": None, "example/new": Version("9")},
    )
    assert (after.sequence, after.publication, after.status) == (7, str(LIVE.id), "synced")
    assert {path: (file.sha256, file.commit) for path, file in after.files.items()} == {
        BASE: ("new", (5, 0)),
        ENV: ("default", (1, 0)),
        "example/new": ("n", (5, 0)),
    }
    versions = {path: file.version for path, file in after.files.items()}
    assert versions == {BASE: "8", ENV: there("default").version, "example/new": "9"}
    assert list(after.files) == sorted(after.files)


def test_a_correct_file_that_was_never_recorded_enters_the_marker() -> None:
    plan = wanted({BASE: "new", ENV: "new"})
    present = {BASE: there("new"), ENV: there("new")}
    first = marker_after(None, plan, present, (), {})
    assert {path: (file.sha256, file.publication) for path, file in first.files.items()} == {
        path: ("new", str(LIVE.id)) for path in (BASE, ENV)
    }
    changed = marker_after(marker({BASE: ("old", (1, 0))}), plan, present, (), {})
    assert changed.files[BASE].sha256 == "new"


@pytest.mark.parametrize(
    ("path", "in_live", "expected"),
    [
        (BASE, True, Blocked(BASE, "why")),
        ("README.md", True, Blocked("README.md", "why")),
        (BASE, False, Stray(BASE)),
        (ENV, True, UnreadOverride(ENV, "why")),
        (ENV, False, UnreadOverride(ENV, "why")),
        ("example/creds/s3.env", True, None),
    ],
)
def test_an_unreadable_file_is_never_overwritten(
    path: str, in_live: bool, expected: PathVerdict | None
) -> None:
    verdicts = plan_paths(wanted({path: "new"} if in_live else {}), {path: Unread("why")}, None)
    assert verdicts == (() if expected is None else (expected,))


def test_an_unreadable_file_of_a_removed_model_blocks_base_if_rebundle_wrote_it() -> None:
    """Hosts copy what is in base/.

    A file that Rebundle never wrote belongs to an operator and does not block base/.
    """
    before = marker({"base/gone": ("old", (1, 0)), ENV: ("old", (1, 0))})
    present = {path: Unread("why") for path in ("base/gone", "base/notes", ENV)}
    verdicts = plan_paths(wanted({}), present, before)
    assert verdicts == (
        Blocked("base/gone", "why"),
        Stray("base/notes"),
        UnreadOverride(ENV, "why"),
    )
    assert [verdict.holds_base_back for verdict in verdicts if isinstance(verdict, Blocked)] == [
        True
    ]
    assert plan_paths(wanted({}), {"base/notes": Unread("why")}, before) == (
        Stray("base/notes"),
        DeletedByOperator(ENV),
    )


@pytest.mark.parametrize(
    ("file", "kept"),
    [
        (there("older", commit=(2, 0)), True),
        (there("older"), True),
        (there("recorded", commit=(2, 0)), False),
        (there("newer", commit=(4, 0)), False),
    ],
)
def test_a_default_older_than_the_recorded_one_is_kept_aside(file: Present, kept: bool) -> None:
    recorded = marker({ENV: ("recorded", (3, 0))})
    expected = Put(ENV, V1, keep_aside=kept)
    assert plan_paths(wanted({ENV: "new"}), {ENV: file}, recorded) == (expected,)


@pytest.mark.parametrize(("commit", "kept"), [(None, True), ((2, 0), False)])
def test_without_a_record_every_default_without_a_tag_is_kept_aside(
    commit: Commit | None, kept: bool
) -> None:
    file = there("older", commit=commit)
    assert plan_paths(wanted({ENV: "new"}), {ENV: file}, None) == (Put(ENV, V1, keep_aside=kept),)


def test_the_marker_records_no_path_that_was_not_written() -> None:
    before = marker({BASE: ("old", (1, 0)), "base/gone": ("x", (1, 0))})
    plan = wanted({BASE: "new", ENV: "new"})
    verdicts = (Blocked(BASE, "why"), Blocked("base/gone", "whence"), Put(ENV, None))
    after = marker_after(
        before, plan, {BASE: there("old"), "base/gone": Unread("whence")}, verdicts, {}
    )
    assert (after.status, after.blocked) == ("blocked", {BASE: "why", "base/gone": "whence"})
    assert after.files == before.files
    lost = marker_after(
        before, plan, {}, (Remove("base/gone", V1), Put(ENV, None)), {}, confirmed=False
    )
    assert lost.files == before.files, "it is unknown whether the file is gone"
    disturbed = marker_after(before, plan, {}, verdicts, {ENV: V1}, confirmed=False)
    assert (disturbed.status, disturbed.blocked, disturbed.files[ENV].sha256) == (
        "updating",
        {},
        "new",
    )
    assert marker_after(after, plan, {}, (), {}).blocked == {}


def test_the_marker_of_a_retry_stays_blocked_and_any_other_is_updating() -> None:
    plan = wanted({})
    blocked = marker_after(None, plan, {}, (Blocked(BASE, "why"),), {})
    assert marker_before(blocked, plan) == blocked
    for other in (
        blocked.model_copy(update={"status": "synced"}),
        blocked.model_copy(update={"sequence": 6}),
        blocked.model_copy(update={"publication": "p@1"}),
        None,
    ):
        assert (marker_before(other, plan).status, marker_before(other, plan).blocked) == (
            "updating",
            {},
        )


def test_blocked_paths_of_the_last_pass_count_only_for_its_sequence() -> None:
    plan = wanted({BASE: "new", ENV: "new"})
    verdicts = (Put(BASE, None), Put(ENV, None), Stray("base/x"))
    blocked = marker_after(None, plan, {}, (Blocked(BASE, "why"),), {})
    assert known_blocked(verdicts, plan, blocked, "now") == (
        Blocked(BASE, "why", "now"),
        *verdicts[1:],
    )
    for other in (
        None,
        blocked.model_copy(update={"sequence": 6}),
        blocked.model_copy(update={"status": "synced"}),
    ):
        assert known_blocked(verdicts, plan, other, "now") == verdicts


def test_overrides_deleted_files_and_unknown_files_leave_the_marker_unchanged() -> None:
    before = marker({ENV: ("old", (1, 0))})
    plan = wanted({ENV: "new", "example/other": "n"})
    present = {"example/other": there("mine", ours=False), "base/stray": there("s", ours=False)}
    verdicts = plan_paths(plan, present, before)
    assert verdicts == (Stray("base/stray"), DeletedByOperator(ENV), Override("example/other"))
    assert marker_after(before, plan, present, verdicts, {}).files == before.files


def test_a_commit_position_is_that_of_the_change_that_published_it() -> None:
    other, mine = str(make_publication("a").id), str(LIVE.id)
    assert commit_position([(1, [other]), (2, [other, mine]), (3, [])], LIVE) == (2, 1)
    assert commit_position([(1, [other])], LIVE) == (0, 0)


@pytest.mark.parametrize(
    ("text", "commit"),
    [
        ("2.1", (2, 1)),
        ("0.0", (0, 0)),
        (None, None),
        ("", None),
        ("2", None),
        ("2.", None),
        (".1", None),
        ("a.b", None),
        ("-1.0", None),
        ("1.2.3", None),
    ],
)
def test_a_commit_position_is_read_from_a_tag_or_not_at_all(
    text: str | None, commit: Commit | None
) -> None:
    assert parsed_commit(text) == commit


PATHS = st.sampled_from(
    [BASE, "README.md", "base/other", ENV, "example/other", "example/creds/s3.env"]
)
DIGESTS = st.sampled_from(["a", "b", "c"])
COMMITS = st.tuples(st.integers(0, 9), st.integers(0, 1))
READABLE = st.builds(there, DIGESTS, ours=st.booleans(), commit=st.none() | COMMITS)
PRESENTS = st.dictionaries(PATHS, READABLE | st.just(Unread("why")))


@given(
    st.dictionaries(PATHS, DIGESTS),
    PRESENTS,
    st.none() | st.dictionaries(PATHS, st.tuples(DIGESTS, COMMITS)).map(marker),
    COMMITS,
)
def test_an_override_is_never_modified_and_no_unknown_file_is_lost(
    files: dict[str, str],
    present: dict[str, Present | Unread],
    recorded: Marker | None,
    commit: Commit,
) -> None:
    for verdict in plan_paths(wanted(files, commit), present, recorded):
        file = present.get(verdict.path)
        in_example = verdict.path.startswith("example/")
        match verdict:
            case Put(over=None):
                assert file is None
                assert not (in_example and recorded and verdict.path in recorded.files)
            case Put(keep_aside=aside):
                assert isinstance(file, Present)
                assert file.ours or (aside and not in_example)
            case Remove():
                assert isinstance(file, Present)
                assert file.ours
                assert not in_example
            case Override() | Stray():
                assert isinstance(file, Unread) or (file is not None and not file.ours)
            case DeletedByOperator():
                assert file is None
            case Blocked():
                assert isinstance(file, Unread)
                assert not in_example


@given(st.dictionaries(PATHS, DIGESTS), PRESENTS, COMMITS)
def test_a_second_pass_has_nothing_to_do(
    files: dict[str, str], present: dict[str, Present | Unread], commit: Commit
) -> None:
    plan = wanted(files, commit)
    verdicts = plan_paths(plan, present, None)
    applied = {item.path: there("").version for item in verdicts if isinstance(item, Put | Remove)}
    synced = marker_after(None, plan, present, verdicts, applied)
    after = dict(present)
    for verdict in verdicts:
        if isinstance(verdict, Put):
            after[verdict.path] = there(files[verdict.path], commit=commit)
        elif isinstance(verdict, Remove):
            del after[verdict.path]
    again = plan_paths(plan, after, synced)
    assert not [item for item in again if isinstance(item, Put | Remove)]
    assert marker_after(synced, plan, after, again, {}) == synced
