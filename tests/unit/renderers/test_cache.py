"""The LRU cache with a size limit."""

from concurrent.futures import ThreadPoolExecutor

from renderers.cache import Cache


def test_a_value_that_was_put_is_found_and_another_is_not():
    cache = Cache[str](100)
    cache.put("a", "x", 10)

    assert cache.get("a") == "x"
    assert cache.get("b") is None


def test_values_requested_together_come_in_order_and_count_as_used():
    cache = Cache[str](30)
    for key in "abc":
        cache.put(key, key, 10)

    assert cache.get_all(["b", "x", "a"]) == ["b", None, "a"]
    cache.put("d", "d", 10)
    assert cache.get_all("abcd") == ["a", "b", None, "d"]


def test_the_least_recently_used_value_is_evicted():
    cache = Cache[str](30)
    for key in "abc":
        cache.put(key, key, 10)
    cache.get("a")
    cache.put("d", "d", 10)

    assert [key for key in "abcd" if cache.get(key)] == ["a", "c", "d"]


def test_a_value_put_again_counts_once():
    cache = Cache[str](30)
    for _ in range(5):
        cache.put("a", "x", 20)
    cache.put("b", "y", 10)

    assert (cache.get("a"), cache.get("b")) == ("x", "y")


def test_a_value_larger_than_the_cache_is_not_kept_and_leaves_it_usable():
    cache = Cache[str](30)
    cache.put("a", "x", 31)
    cache.put("b", "y", 30)

    assert len(cache) == 1
    assert cache.get("b") == "y"


def test_a_value_above_the_limit_evicts_no_other():
    cache = Cache[str](100)
    cache.put("a", "small", 60)
    cache.put("b", "large", 101)
    cache.put("a", "too large now", 101)

    assert cache.get("b") is None
    assert cache.get("a") is None, "the old value would be wrong"
    cache.put("c", "fits", 100)
    assert cache.get("c") == "fits"


def test_a_removed_value_frees_its_space():
    cache = Cache[str](30)
    cache.put("a", "x", 20)

    assert cache.pop("a") == "x"
    assert cache.pop("a") is None
    assert cache.get("a") is None
    for key in "bc":
        cache.put(key, key, 15)
    assert cache.get_all("bc") == ["b", "c"]
    cache.put("d", "d", 1)
    assert cache.get_all("bcd") == [None, "c", "d"]


def test_threads_that_share_a_cache_keep_its_limit():
    cache = Cache[int](1_000)

    def use(seed: int) -> None:
        for number in range(2_000):
            cache.put((seed * number) % 37, number, 1 + number % 90)
            cache.get(number % 37)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(1, 5)))
    for key in range(100, 120):
        cache.put(key, 0, 50)

    # Twenty values of 50 bytes fill it exactly. With a lost count, fewer or more would be there.
    assert len(cache) == 20
