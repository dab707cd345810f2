"""Valid object keys."""

import pytest

from daemon.stores.object_keys import by_bytes, check_folder, check_key, check_prefix, is_key

GOOD = ["a", "a/b", ".env", "a b", "é/名前", "..a/b..", "k" * 255, "/".join(["k" * 255] * 4)]
BAD = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "./a",
    "a/..",
    "a/../b",
    "a\0",
    "a\tb",
    "\x7f",
    "\udcff",
    "k" * 256,
    "/".join("k" * 600),
]


@pytest.mark.parametrize("key", GOOD)
def test_a_relative_path_is_a_key(key: str) -> None:
    assert check_key(key) == key
    assert is_key(key)
    assert all(check_prefix(key[:length]) == key[:length] for length in range(len(key) + 1))


@pytest.mark.parametrize("key", BAD)
def test_any_other_text_is_not_a_key(key: str) -> None:
    assert not is_key(key)
    with pytest.raises(ValueError, match=r"key|text"):
        check_key(key)


@pytest.mark.parametrize("prefix", ["/", "/a", "../", "../a", "a//", "a/./b", "a\0"])
def test_a_prefix_that_starts_no_key_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match=r"key|text"):
        check_prefix(prefix)


def test_a_folder_ends_in_a_slash() -> None:
    assert [check_folder(folder) for folder in ("", "a/", "a/b/")] == ["", "a/", "a/b/"]
    with pytest.raises(ValueError, match="end in '/'"):
        check_folder("a")
    with pytest.raises(ValueError, match="relative"):
        check_folder("a/../")


def test_keys_sort_by_their_bytes() -> None:
    assert sorted(["\U0001d11e", "\uff61", "b", "a/b", "a-b"], key=by_bytes) == [
        "a-b",
        "a/b",
        "b",
        "\uff61",
        "\U0001d11e",
    ]
