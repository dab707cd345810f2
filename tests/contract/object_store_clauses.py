"""The contract of every ObjectStore, as clauses that run on any adapter (`test_object_store`).

A clause gets an empty bucket and opens as many clients of it as it needs. Clauses with `race` in
their name use several concurrent clients. They repeat, because one lucky round proves little.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

import pytest

from daemon.stores.errors import (
    ConditionFailed,
    ObjectMissing,
    ObjectTooBig,
    OutcomeUnknown,
    StoreUnavailable,
)
from daemon.stores.port import Content, ObjectStore, Version

WRITERS = 8
ROUNDS = 12


class Bucket(Protocol):
    def open(self) -> ObjectStore:
        """One more client of the same bucket."""
        ...

    def now(self) -> datetime:
        """The store's clock, to the minute."""
        ...


Clause = Callable[[Bucket], Awaitable[None]]
CLAUSES: list[Clause] = []


def clause(check: Clause) -> Clause:
    CLAUSES.append(check)
    return check


@clause
async def another_client_reads_the_whole_object(bucket: Bucket) -> None:
    version = await bucket.open().create(
        "a/b", Content(b"body", tag={"sha256": "0f", "position": "4.1"})
    )

    stored = await bucket.open().get("a/b")

    assert (stored.body, stored.version, dict(stored.tag)) == (
        b"body",
        version,
        {"sha256": "0f", "position": "4.1"},
    )


@clause
async def an_absent_object_is_missing(bucket: Bucket) -> None:
    store = bucket.open()
    version = await store.create("there", Content(b"1"))

    for absent in ("absent", "the", "there-not", "folder/absent"):
        with pytest.raises(ObjectMissing, match=absent):
            await store.get(absent)
        with pytest.raises((ObjectMissing, ConditionFailed)):
            await store.replace(absent, Content(b"2"), version)
    assert [listed.key for listed in await store.scan("")] == ["there"]


@clause
async def versions_are_those_of_reads(bucket: Bucket) -> None:
    store, other = bucket.open(), bucket.open()
    keys = ["a/b", "a/c", "absent", "a", "a/b/absent"]
    assert dict(await store.versions(keys)) == {}
    await store.create("a/b", Content(b"1"))
    await store.create("a/c", Content(b"1", tag={"n": "1"}))

    for number in range(3):
        there = {key: (await other.get(key)).version for key in keys[:2]}
        assert dict(await store.versions(keys)) == there
        await other.replace("a/b", Content(b"%d" % (number + 2)), there["a/b"])
        await other.replace("a/c", Content(b"1", tag={"n": f"{number + 2}"}), there["a/c"])
    await other.delete("a/b", (await other.get("a/b")).version)

    assert dict(await store.versions(keys)) == {"a/c": (await store.get("a/c")).version}
    assert dict(await store.versions([])) == {}


@clause
async def a_body_is_read_up_to_the_limit_of_the_caller(
    bucket: Bucket,
) -> None:
    store = bucket.open()
    await store.create("empty", Content(b""))
    body = bytes(range(256)) * 12_289  # more than 3 MiB, so that it comes in several pieces
    version = await store.create("big", Content(body, tag={"n": "1"}))

    for most in (0, 1, len(body) - 1):
        with pytest.raises(ObjectTooBig, match=f"big is larger than {most:,} bytes"):
            await store.get("big", max_bytes=most)
    for limit in (len(body), len(body) + 1, None):
        stored = await store.get("big", max_bytes=limit)
        assert (stored.body, stored.version, dict(stored.tag)) == (body, version, {"n": "1"})
    assert (await store.get("empty", max_bytes=0)).body == b""
    with pytest.raises(ObjectMissing):
        await store.get("absent", max_bytes=0)


@clause
async def an_empty_bucket_lists_nothing(bucket: Bucket) -> None:
    store = bucket.open()

    assert (
        list(await store.scan("")),
        list(await store.scan("a/")),
        list(await store.folders("")),
    ) == ([], [], [])


@clause
async def create_refuses_a_key_that_exists(bucket: Bucket) -> None:
    store = bucket.open()
    version = await store.create("key", Content(b"first", tag={"by": "first"}))

    for body in (b"second", b"first"):
        with pytest.raises(ConditionFailed):
            await bucket.open().create("key", Content(body, tag={"by": "second"}))

    stored = await store.get("key")
    assert (stored.body, stored.version, dict(stored.tag)) == (b"first", version, {"by": "first"})


@clause
async def replace_refuses_every_version_but_the_present_one(bucket: Bucket) -> None:
    store = bucket.open()
    first = await store.create("key", Content(b"first"))
    second = await store.replace("key", Content(b"second", tag={"n": "2"}), first)

    for stale in (first, Version("0"), Version("")):
        with pytest.raises(ConditionFailed):
            await bucket.open().replace("key", Content(b"third"), stale)

    stored = await store.get("key")
    assert (stored.body, stored.version, dict(stored.tag)) == (b"second", second, {"n": "2"})
    assert first != second


@clause
async def replace_accepts_the_version_of_a_read_and_of_a_listing(bucket: Bucket) -> None:
    store = bucket.open()
    await store.create("key", Content(b"first", tag={"n": "1"}))

    await store.replace("key", Content(b"second", tag={"n": "2"}), (await store.get("key")).version)
    await store.replace(
        "key", Content(b"third", tag={"n": "3"}), (await store.scan("key"))[0].version
    )

    stored = await store.get("key")
    assert (stored.body, dict(stored.tag)) == (b"third", {"n": "3"})


@clause
async def a_tag_changes_with_its_body_and_can_be_removed(bucket: Bucket) -> None:
    store = bucket.open()
    version = await store.create("key", Content(b"same", tag={"n": "1"}))
    version = await store.replace("key", Content(b"same", tag={"n": "2"}), version)
    assert dict((await store.get("key")).tag) == {"n": "2"}

    version = await store.replace("key", Content(b"other"), version)
    assert dict((await store.get("key")).tag) == {}

    await store.replace("key", Content(b"same"), version)
    assert dict((await store.get("key")).tag) == {}


@clause
async def a_deleted_object_is_missing_and_its_key_is_free(bucket: Bucket) -> None:
    store = bucket.open()
    version = await store.create("a/b/key", Content(b"first", tag={"n": "1"}))

    await store.delete("a/b/key", version)

    with pytest.raises(ObjectMissing):
        await store.get("a/b/key")
    with pytest.raises((ObjectMissing, ConditionFailed)):
        await store.replace("a/b/key", Content(b"second"), version)
    assert (list(await store.scan("")), list(await store.folders(""))) == ([], [])
    await store.create("a/b/key", Content(b"first"))
    assert dict((await store.get("a/b/key")).tag) == {}


@clause
async def delete_refuses_a_stale_version(bucket: Bucket) -> None:
    store = bucket.open()
    first = await store.create("key", Content(b"first"))
    await store.replace("key", Content(b"second"), first)

    with pytest.raises(ConditionFailed):
        await bucket.open().delete("key", first)
    with pytest.raises((ObjectMissing, ConditionFailed)):
        await bucket.open().delete("absent", first)

    assert (await store.get("key")).body == b"second"


@clause
async def a_prefix_is_text_and_not_a_folder(bucket: Bucket) -> None:
    store = bucket.open()
    for key in ("a", "ab/c", "a.b", "b/a", "b/ab", "b/a-b/c"):
        await store.create(key, Content(b""))

    async def keys(prefix: str) -> list[str]:
        return [listed.key for listed in await store.scan(prefix)]

    assert await keys("a") == ["a", "a.b", "ab/c"]
    assert await keys("ab") == ["ab/c"]
    assert await keys("ab/") == ["ab/c"]
    assert await keys("b/a") == ["b/a", "b/a-b/c", "b/ab"]
    assert await keys("b/a-b/") == ["b/a-b/c"]
    assert await keys("c") == []
    assert await keys("b/a/") == []


@clause
async def a_listing_is_sorted_by_bytes_and_has_sizes(bucket: Bucket) -> None:
    store = bucket.open()
    # Text sorts the last two the other way round if it is compared by UTF-16 units.
    keys = ["Z", "a!", "a-b", "a/b", "a/b!", "a0", "é", "\uff61", "\U0001d11e"]
    for key in reversed(keys):
        await store.create(key, Content(key.encode()))

    listing = await store.scan("")

    assert [listed.key for listed in listing] == keys
    assert [listed.size for listed in listing] == [len(key.encode()) for key in keys]
    for listed in listing:
        stored = await store.get(listed.key)
        assert stored.version == listed.version
        assert listed.sha256 in {None, hashlib.sha256(stored.body).hexdigest()}


@clause
async def a_listing_has_the_time_of_each_write(bucket: Bucket) -> None:
    store = bucket.open()
    version = await store.create("first", Content(b"1"))
    await store.create("second", Content(b"2"))
    written = {listed.key: listed.modified for listed in await store.scan("")}
    await store.replace("first", Content(b"3"), version)
    again = {listed.key: listed.modified for listed in await store.scan("")}

    assert [when.tzinfo for when in (*written.values(), *again.values())] == [UTC] * 4
    assert all(
        abs(when - bucket.now()) < timedelta(minutes=1)
        for when in (*written.values(), *again.values())
    )
    assert written["first"] <= written["second"] <= again["first"]


@clause
async def a_listing_of_several_pages_is_complete(bucket: Bucket) -> None:
    store = bucket.open()
    names = [f"{number:04}" for number in range(1_003)]
    waiting = iter(names)

    async def create() -> None:
        for name in waiting:
            await store.create(f"many/{name}/key", Content(name.encode()))

    await asyncio.gather(*(create() for _ in range(WRITERS)))

    assert [listed.key for listed in await store.scan("many/")] == [
        f"many/{name}/key" for name in names
    ]
    assert list(await store.folders("many/")) == names


@clause
async def folders_are_the_next_parts(bucket: Bucket) -> None:
    store = bucket.open()
    for key in ("top", "b/one/x/pointer", "b/one/y", "b/two/x", "b/file", "ab/z", "é/z"):
        await store.create(key, Content(b"1"))

    assert list(await store.folders("")) == ["ab", "b", "é"]
    assert list(await store.folders("b/")) == ["one", "two"]
    assert list(await store.folders("b/one/")) == ["x"]
    assert list(await store.folders("b/two/")) == []
    assert list(await store.folders("absent/")) == []


@clause
async def bodies_and_keys_of_every_kind_round_trip(bucket: Bucket) -> None:
    store = bucket.open()
    bodies = {
        "empty": b"",
        "bytes/" + "k" * 200: bytes(range(256)) * 17,
        "large": hashlib.sha256(b"seed").digest() * (5 * 1024 * 1024 // 32),
        "with space/ünïcode-名前/%2F+&=~.txt": b"name",
        ".hidden/.env": b"dots",
    }
    for key, body in bodies.items():
        await store.create(key, Content(body, tag={"name": "value"}))

    for key, body in bodies.items():
        stored = await bucket.open().get(key)
        assert stored.body == body
        assert dict(stored.tag) == {"name": "value"}
    assert {listed.key: listed.size for listed in await store.scan("")} == {
        k: len(b) for k, b in bodies.items()
    }


@clause
async def keys_that_are_nearly_equal_are_distinct(bucket: Bucket) -> None:
    store = bucket.open()
    alike = {
        "a b",
        "a+b",
        "a%20b",
        "a%2520b",
        "a%2Fb",
        "a\\b",
        "A B",
        "é",
        "e\u0301",
        "k",
        "k ",
        " k",
        "k~",
        "-k",
        "k.",
    }
    markup = {
        "<key>&amp;",
        '"quoted"',
        "'quoted'",
        "key?x=y#z",
        "a:b;c,d@e=f$g!",
        "(*)[x]{y}|z^`",
        "✓ 名前 \U0001d11e",
    }
    keys = alike | markup | {"n" * 255, "/".join(["folder" * 10] * 5)}
    for key in keys:
        await store.create(f"odd/{key}", Content(key.encode()))

    assert [listed.key for listed in await store.scan("odd/")] == [
        f"odd/{key}" for key in sorted(keys, key=str.encode)
    ]
    for key in keys:
        assert (await store.get(f"odd/{key}")).body == key.encode()


@clause
async def a_tag_may_have_any_text(bucket: Bucket) -> None:
    store = bucket.open()
    tag = {
        "empty": "",
        "spaces": "  two before, one after ",
        "percent": "100% %41 %zz %",
        "unicode": "ünïcode 名前 \U0001d11e",
        "lines": "one\r\ntwo\ttabbed\0",
        "markup": "<a href=\"x\">'&amp;'</a>; \\ ,=",
        "long": "0123456789" * 50,
    }
    version = await store.create("key", Content(b"body", tag=tag))

    assert dict((await store.get("key")).tag) == tag
    await store.replace("key", Content(b"other body", tag=tag), version)
    assert dict((await store.get("key")).tag) == tag


@clause
async def the_condition_applies_to_a_body_of_nine_megabytes(bucket: Bucket) -> None:
    """A client library may send one in several requests."""
    store = bucket.open()
    first, second, third = (
        Content(seed * 9_000_001, tag={"by": seed.decode()}) for seed in (b"1", b"2", b"3")
    )
    version = await store.create("key", first)
    with pytest.raises(ConditionFailed):
        await store.create("key", second)
    newer = await store.replace("key", second, version)
    with pytest.raises(ConditionFailed):
        await store.replace("key", third, version)

    stored = await store.get("key")
    assert (stored.body == second.body, stored.version, dict(stored.tag)) == (
        True,
        newer,
        {"by": "2"},
    )


@clause
async def a_key_that_is_not_a_path_is_refused(bucket: Bucket) -> None:
    store = bucket.open()
    for key in (
        "",
        "/a",
        "a/",
        "a//b",
        ".",
        "../a",
        "a/../b",
        "a/./b",
        "a\0b",
        "a\nb",
        "\ud800",
        "k" * 1025,
    ):
        for call in (
            store.get(key),
            store.create(key, Content(b"")),
            store.delete(key, Version("1")),
        ):
            with pytest.raises(ValueError, match=r"key|text"):
                await call
    for prefix in ("/", "../", "a//", "a/../b"):
        with pytest.raises(ValueError, match="key"):
            await store.scan(prefix)
    with pytest.raises(ValueError, match="end in '/'"):
        await store.folders("a")
    assert list(await store.scan("")) == []


@clause
async def a_race_to_create_has_one_winner(bucket: Bucket) -> None:
    clients = [bucket.open() for _ in range(WRITERS)]
    for turn in range(ROUNDS):
        key = f"race/{turn}/key"
        tries = await asyncio.gather(
            *(_try(client.create(key, _by(writer))) for writer, client in enumerate(clients)),
        )

        await _check_one_winner(clients[0], key, tries)


@clause
async def a_race_to_replace_has_one_winner(bucket: Bucket) -> None:
    clients = [bucket.open() for _ in range(WRITERS)]
    version = await clients[0].create("key", Content(b"start"))
    for turn in range(ROUNDS):
        tries = await asyncio.gather(
            *(
                _try(client.replace("key", _by(writer, turn), version))
                for writer, client in enumerate(clients)
            ),
        )

        version = await _check_one_winner(clients[0], "key", tries, turn)


@clause
async def a_race_of_increments_loses_no_update(bucket: Bucket) -> None:
    await bucket.open().create("counter", Content(b"0 start"))

    async def count(writer: int) -> None:
        store = bucket.open()
        for step in range(ROUNDS):
            while True:
                stored = await store.get("counter")
                body = f"{int(stored.body.split()[0]) + 1} {writer}.{step}".encode()
                if await _try(store.replace("counter", Content(body), stored.version)) is not None:
                    break

    await asyncio.gather(*map(count, range(WRITERS)))

    assert (await bucket.open().get("counter")).body.split()[0] == str(WRITERS * ROUNDS).encode()


@clause
async def a_race_between_replace_and_delete_has_one_winner(bucket: Bucket) -> None:
    one, other = bucket.open(), bucket.open()
    for turn in range(ROUNDS):
        key = f"race/{turn}"
        version = await one.create(key, Content(b"start", tag={"n": "0"}))
        replaced, deleted = await asyncio.gather(
            _try(one.replace(key, Content(b"replaced", tag={"n": "1"}), version)),
            _try(_delete(other, key, version)),
        )

        assert (replaced is None) != (deleted is None)
        if deleted is None:
            assert dict((await one.get(key)).tag) == {"n": "1"}
        else:
            with pytest.raises(ObjectMissing):
                await one.get(key)


@clause
async def a_race_in_one_folder_loses_no_object(bucket: Bucket) -> None:
    """Folders come and go with their objects. A concurrent creator must not notice."""

    async def create_and_delete(writer: int) -> None:
        store = bucket.open()
        for _ in range(ROUNDS):
            version = await store.create(f"a/b/{writer}", _by(writer))
            assert (await store.get(f"a/b/{writer}")).version == version
            await store.delete(f"a/b/{writer}", version)

    await asyncio.gather(*map(create_and_delete, range(WRITERS)))

    assert list(await bucket.open().scan("")) == []


@clause
async def a_race_with_readers_shows_no_torn_object(bucket: Bucket) -> None:
    writer, reader, lister = bucket.open(), bucket.open(), bucket.open()
    version = await writer.create("key", _whole(0))
    finished = False

    async def write() -> None:
        nonlocal version, finished
        for turn in range(1, 3 * ROUNDS):
            version = await writer.replace("key", _whole(turn), version)
        finished = True

    async def read() -> None:
        while not finished:
            stored = await reader.get("key")
            assert dict(stored.tag) == {"sha256": hashlib.sha256(stored.body).hexdigest()}
            [listed] = await lister.scan("")
            assert listed.size % 100_003 == 0

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        tasks.create_task(read())


async def _try(write: Awaitable[Version]) -> Version | None:
    """The new version, or None if the write was refused because of its condition."""
    try:
        return await write
    except (ConditionFailed, ObjectMissing):
        return None
    except (OutcomeUnknown, StoreUnavailable) as error:
        raise AssertionError("nothing disturbs the store in this suite") from error


async def _delete(store: ObjectStore, key: str, version: Version) -> Version:
    await store.delete(key, version)
    return version


async def _check_one_winner(
    store: ObjectStore, key: str, tries: list[Version | None], turn: int = 0
) -> Version:
    winners = [writer for writer, version in enumerate(tries) if version is not None]
    assert len(winners) == 1
    stored = await store.get(key)
    expected = _by(winners[0], turn)
    assert (stored.body, dict(stored.tag)) == (expected.body, dict(expected.tag))
    assert stored.version == tries[winners[0]]
    return stored.version


def _by(writer: int, turn: int = 0) -> Content:
    return Content(
        f"{turn} by {writer}".encode() * 1000, tag={"writer": str(writer), "turn": str(turn)}
    )


def _whole(turn: int) -> Content:
    body = bytes([turn]) * 100_003 * (turn % 3 + 1)
    return Content(body, tag={"sha256": hashlib.sha256(body).hexdigest()})
