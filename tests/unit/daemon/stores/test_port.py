"""A listing as a value."""

from datetime import UTC, datetime

import pytest

from daemon.stores.errors import StoreRefused
from daemon.stores.port import Listed, Listing, UnreadableFolder, Version


def test_a_listing_is_complete_if_every_folder_could_be_listed() -> None:
    listed = Listed("a", Version("1"), 1, datetime.fromtimestamp(0, UTC))
    whole = Listing((listed,))

    assert whole.complete() is whole
    with pytest.raises(StoreRefused, match="a/b/ cannot be listed: Permission denied"):
        Listing((listed,), (UnreadableFolder("a/b", "Permission denied"),)).complete()
