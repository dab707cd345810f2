"""The marker of a live tree: what a pass writes into it, and what stays in it (protocol 5)."""

from daemon.publishing.live_tree.ownership import (
    Marker,
    Present,
    Put,
    Wanted,
    marker_after,
    marker_before,
    plan_paths,
)
from daemon.stores.port import Version
from tests.builders_publishing import make_publication

BASE, ENV = "base/docker-compose.yml", "example/conf/bundle/.env"
V1 = Version("1")
LIVE, EARLIER = make_publication("state-5", 5), make_publication("state-4", 4)
WANTED = Wanted(LIVE, 7, (5, 0), {BASE: "0" * 64})
FILE = {"sha256": "1" * 64, "publication": str(EARLIER.id), "commit": [4, 0], "version": "v"}


def marker(**fields: object) -> Marker:
    """The marker of an earlier pass."""
    said = {
        "sequence": 4,
        "publication": str(EARLIER.id),
        "status": "synced",
        "files": {BASE: FILE},
    }
    return Marker.model_validate(said | fields)


def test_the_first_pass_over_a_tree_starts_with_a_marker_without_files() -> None:
    begun = marker_before(None, WANTED)

    assert (begun.sequence, begun.publication, begun.status) == (7, str(LIVE.id), "updating")
    assert begun.files == {}


def test_a_pass_keeps_the_recorded_files_until_it_has_written_one() -> None:
    begun = marker_before(marker(), WANTED)

    assert (begun.sequence, begun.publication, begun.status) == (7, str(LIVE.id), "updating")
    assert begun.files == marker().files


def test_fields_of_a_newer_release_stay_in_the_marker() -> None:
    before = marker(shown_to="nobody")

    begun = marker_before(before, WANTED)
    after = marker_after(begun, WANTED, {BASE: Present("0" * 64, V1, ours=True)}, (), {})

    assert [item.model_dump()["shown_to"] for item in (begun, after)] == ["nobody", "nobody"]
    assert (after.status, after.files[BASE].sha256) == ("synced", "0" * 64)


def test_a_blocked_marker_of_the_same_publication_is_not_written_again() -> None:
    blocked = marker(
        sequence=7, publication=str(LIVE.id), status="blocked", blocked={BASE: "it is a folder"}
    )

    assert marker_before(blocked, WANTED) is blocked
    for other in ({"sequence": 6}, {"publication": str(EARLIER.id)}, {"status": "synced"}):
        assert marker_before(blocked.model_copy(update=other), WANTED).status == "updating"


def test_a_default_without_any_record_is_older_than_every_commit() -> None:
    found = {ENV: Present("old", V1, ours=True)}
    wanted = Wanted(LIVE, 1, (0, 1), {ENV: "new"})

    assert plan_paths(wanted, found, None) == (Put(ENV, V1, keep_aside=True),)
