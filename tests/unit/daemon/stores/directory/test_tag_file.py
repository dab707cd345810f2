"""The tag file: which body has which tag."""

import pytest

from daemon.stores.directory.tag_file import TagEntry, decode_tags, encode_tags, fitting, version_of

OLD = TagEntry("aa", "id-1", {"n": "1"})
NEW = TagEntry("bb", "id-2", {"n": "2", "name": "ü"})


def test_a_tag_file_round_trips_in_order() -> None:
    assert decode_tags(encode_tags([OLD, NEW])) == (OLD, NEW)
    assert decode_tags(encode_tags([])) == ()


def test_a_body_is_recognised_by_its_digest() -> None:
    assert fitting([OLD, NEW], "aa") == OLD
    assert fitting([OLD, NEW], "bb") == NEW
    assert fitting([OLD, NEW], "cc") is None
    assert fitting([], "aa") is None


def test_of_two_entries_for_one_body_the_newer_one_counts() -> None:
    again = TagEntry("aa", "id-3", {"n": "3"})

    assert fitting([OLD, again], "aa") == again


def test_two_writes_of_one_body_are_two_versions() -> None:
    versions = {
        version_of("aa", None),
        version_of("aa", OLD),
        version_of("aa", TagEntry("aa", "id-3", {})),
    }

    assert len(versions) == 3


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff",
        b"null",
        b"{}x",
        b"[1]",
        b'[{"sha256": "aa"}]',
        b'[{"sha256": 1, "id": "i", "tag": {}}]',
        b'[{"sha256": "aa", "id": null, "tag": {}}]',
        b'[{"sha256": "aa", "id": "i", "tag": []}]',
        b"[" * 100_000,
    ],
    ids=repr,
)
def test_a_damaged_tag_file_has_no_entries(raw: bytes) -> None:
    assert decode_tags(raw) == ()


def test_a_tag_file_is_the_same_text_in_every_release() -> None:
    assert encode_tags([NEW]) == (
        '[{"id": "id-2", "sha256": "bb", "tag": {"n": "2", "name": "ü"}}]\n'.encode()
    )
