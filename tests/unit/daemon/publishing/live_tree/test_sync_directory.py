"""The live tree in a directory, where links, folders and permissions block single files (ADR 18)."""

import asyncio
import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.publishing import layout, sizes
from daemon.publishing.live_tree.results import FinishedPass
from daemon.stores.directory.filesystem import RealFileSystem
from daemon.stores.directory.store import UNREAD_BYTES, DirectoryStore
from tests.builders_publishing import SCOPE, Bucket, make_files, make_state
from tests.builders_runtime import InlineRuntime

COMPOSE, SCRIPT, ENV = (
    "base/docker-compose.yml",
    "base/bundle/download.sh",
    "example/conf/bundle/.env",
)
NEW_BASE, NEW_EXAMPLE = "base/conf/new.conf", "example/conf/bundle/new.env"
RETRY_SECONDS = 300.0


class Forbidding(RealFileSystem):
    """Some files can be listed but not read, as with mode 0600 of another owner."""

    def __init__(self) -> None:
        self.secret: set[Path] = set()

    def chunks(self, path: Path) -> Iterator[bytes]:
        if path in self.secret:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        yield from super().chunks(path)


class Scene:
    """A bucket in a folder: the tree has state-1; state-2 is live and has two more files."""

    def __init__(self, folder: Path) -> None:
        self.filesystem, self.runtime = Forbidding(), InlineRuntime()
        store = DirectoryStore(folder, self.runtime, self.filesystem, unread=layout.is_credential)
        self.process = Bucket(store, self.runtime)
        self.tree = folder.resolve() / layout.live_tree(SCOPE)

    async def begin(self) -> None:
        await self.process.publish(make_state(1))
        await self.passed()
        more = {NEW_BASE: "new base\n", NEW_EXAMPLE: "new example\n"}
        await self.process.publish(make_state(2, files=make_files("2", **more)))

    async def passed(self) -> FinishedPass:
        result = await self.process.live_tree.reconcile(SCOPE)
        assert isinstance(result, FinishedPass), result
        return result

    def at(self, path: str) -> Path:
        """A path of the tree, including its folder."""
        (self.tree / path).parent.mkdir(parents=True, exist_ok=True)
        return self.tree / path

    def marker(self) -> tuple[str, list[str]]:
        document = json.loads((self.tree / layout.MARKER).read_text())
        return document["status"], sorted(document["blocked"])


def folder_there(path: Path) -> None:
    path.mkdir()


def link_there(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def dangling_link_there(path: Path) -> None:
    path.symlink_to("nowhere")


def linked_folder_above(path: Path) -> None:
    moved = path.parent.with_name("moved")
    path.parent.rename(moved)
    path.parent.symlink_to(moved)


def file_instead_of_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.write_text("a file")


OBSTACLES = [
    folder_there,
    link_there,
    dangling_link_there,
    linked_folder_above,
    file_instead_of_folder,
]


@pytest.mark.parametrize("obstacle", OBSTACLES, ids=lambda item: item.__name__)
@pytest.mark.parametrize("path", [NEW_BASE, NEW_EXAMPLE])
def test_an_obstacle_at_a_path_blocks_only_that_file(
    tmp_path: Path, path: str, obstacle: Callable[[Path], None]
) -> None:
    async def play() -> None:
        scene = Scene(tmp_path / "bucket")
        await scene.begin()
        obstacle(scene.at(path))
        result = await scene.passed()
        reasons = {blocked.path: blocked.reason for blocked in result.blocked}
        # A store that lists links shows the folder as unreadable: an override in example/.
        assert set(reasons) == {path} or (path == NEW_EXAMPLE and path in result.overrides)
        assert all(
            any(word in item for word in ("move", "replace", "plain file"))
            for item in reasons.values()
        ), reasons
        assert result.follows == (path == NEW_EXAMPLE)
        assert (scene.tree / COMPOSE).read_text() == "services 2\n"
        assert (scene.tree / SCRIPT).read_text() == "exit # 2\n"
        other = NEW_EXAMPLE if path == NEW_BASE else NEW_BASE
        assert (scene.tree / other).read_text().startswith("new ")
        assert scene.marker() == ("blocked" if reasons else "synced", sorted(reasons))

    asyncio.run(play())


def test_once_the_obstacle_is_gone_the_file_is_written(tmp_path: Path) -> None:
    async def play() -> None:
        scene = Scene(tmp_path / "bucket")
        await scene.begin()
        scene.at(NEW_BASE).mkdir()
        assert not (await scene.passed()).follows
        scene.at(NEW_BASE).rmdir()
        assert not (await scene.passed()).follows, "an empty folder is in no listing"
        await scene.runtime.sleep(RETRY_SECONDS)
        assert (await scene.passed()).follows
        assert scene.at(NEW_BASE).read_text() == "new base\n"
        assert scene.marker() == ("synced", [])

    asyncio.run(play())


@pytest.mark.parametrize("path", [ENV, "example/own", COMPOSE, "base/notes"])
def test_a_file_that_only_its_owner_may_read_blocks_no_other(tmp_path: Path, path: str) -> None:
    async def play() -> None:
        scene = Scene(tmp_path / "bucket")
        await scene.begin()
        scene.at(path).write_text("SECRET=1\n")
        scene.filesystem.secret.add(scene.at(path))
        result = await scene.passed()
        assert (path in result.overrides) == path.startswith("example/")
        assert [blocked.path for blocked in result.blocked] == (
            [COMPOSE] if path == COMPOSE else []
        )
        assert (path in result.strays) == (path == "base/notes")
        assert "chmod" in "".join(blocked.reason for blocked in result.blocked) or path != COMPOSE
        assert scene.at(path).read_text() == "SECRET=1\n"
        assert (scene.tree / SCRIPT).read_text() == "exit # 2\n"
        assert (scene.tree / NEW_EXAMPLE).exists()
        scene.filesystem.secret.clear()
        await scene.runtime.sleep(RETRY_SECONDS)
        assert (await scene.passed()).follows

    asyncio.run(play())


def test_an_earlier_default_that_an_operator_copied_is_kept_aside(
    tmp_path: Path,
) -> None:
    async def play() -> None:
        scene = Scene(tmp_path / "bucket")
        await scene.begin()
        earlier = scene.at(ENV).read_bytes()
        await scene.passed()
        for _ in range(2):
            scene.at(ENV).write_bytes(earlier)
            assert (await scene.passed()).kept_aside == (ENV,)
            assert scene.at(ENV).read_text() == "# defaults 2\n"
        copies = [
            path
            for path in (tmp_path / "bucket" / layout.all_replaced(SCOPE)).rglob("*")
            if path.is_file()
        ]
        assert [copy.read_bytes() for copy in copies] == [earlier]

    asyncio.run(play())


def test_a_listing_reads_every_file_that_a_pass_may_write():
    assert sizes.FILE <= UNREAD_BYTES
