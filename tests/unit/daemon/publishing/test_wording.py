"""Long lists in messages are cut, and the number of omitted items is given."""

from daemon.publishing.wording import some


def test_a_short_list_is_named_in_full() -> None:
    assert some([]) == ""
    assert some([1]) == "1"
    assert some("abcde") == "a, b, c, d, e"


def test_a_long_list_names_the_first_and_counts_the_others() -> None:
    assert some("abcdef") == "a, b, c, d, e and 1 more"
    assert some(range(100), most=2) == "0, 1 and 98 more"
    assert some((item for item in "abc"), most=3) == "a, b, c"
