"""Tags round-trip through headers, and metadata of other tools is not a tag."""

from hypothesis import given
from hypothesis import strategies as st

from daemon.stores.object_metadata import decoded, encoded

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1)
VALUES = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(NAMES, VALUES))
def test_every_tag_round_trips_through_a_header(tag: dict[str, str]) -> None:
    sent = encoded(tag)

    assert decoded(sent) == tag
    assert all(
        value.isascii() and value == value.strip() and value.isprintable()
        for value in sent.values()
    )


def test_metadata_of_other_tools_is_not_a_tag() -> None:
    sent = encoded({"sha256": "0f"})

    assert decoded(sent | {"mtime": "1700000000.5", "sha256": "forged"}) == {"sha256": "0f"}


def test_only_what_a_header_cannot_hold_is_encoded() -> None:
    assert encoded({"name": "base/a b+ü.yaml"}) == {"rebundle-name": "base/a%20b+%C3%BC.yaml"}
