"""Commands in messages work when they are copied, with any name."""

import asyncio
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from daemon.stores.directory.store import DirectoryStore
from daemon.stores.errors import StoreRefused
from daemon.stores.locations import S3, Directory, Gcs
from daemon.stores.port import Content
from daemon.stores.remedies import move_file, move_object
from tests.builders_runtime import InlineRuntime

NAMES = ["plain", "with space", "it's", 'a "quote"', "$(touch hit)", "ünïcode", "-n", "semi;colon"]


def run(command: str, folder: Path) -> None:
    subprocess.run(["sh", "-c", command], cwd=folder, check=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_suggested_command_moves_an_obstacle_out_of_the_live_tree(
    tmp_path: Path, name: str
) -> None:
    root = tmp_path / "bucket of 'all' things"
    key = f"bundle/target/docker-compose-gen/base/{name}"
    path = root / key
    path.parent.mkdir(parents=True)
    store = DirectoryStore(root, InlineRuntime())
    for number in range(2):
        path.symlink_to(tmp_path)
        with pytest.raises(StoreRefused, match="symbolic link") as raised:
            asyncio.run(store.create(key, Content(b"1")))
        run(str(raised.value).partition("move it away: ")[2], tmp_path)
        assert sorted(item.name for item in path.parent.iterdir()) == []
        assert len([*(root / ".rebundle/aside").glob("*/*")]) == number + 1, (
            "nothing is overwritten"
        )
    version = asyncio.run(store.create(key, Content(b"1")))
    assert [(entry.key, entry.version) for entry in asyncio.run(store.scan(""))] == [(key, version)]
    assert not (tmp_path / "hit").exists()


def test_an_obstacle_outside_of_every_scope_is_renamed_in_place(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path.parent, tmp_path / ".rebundle", tmp_path / ".rebundle/store/a"):
        assert move_file(tmp_path, path) == f"mv {path} {path}.aside"


@pytest.mark.parametrize("name", NAMES)
def test_an_object_is_moved_out_of_the_scopes_of_its_bucket(name: str) -> None:
    def words(command: str) -> list[str]:
        return shlex.split(command.replace("$(date +%s)", "1767225600"))

    key = f"b/t/docker-compose-gen/base/{name}"
    below = "s3://my-bucket/my team"
    assert words(move_object(S3("my-bucket", "my team", "http://h:9000", "eu"), key)) == [
        *("aws", "s3", "mv", f"{below}/{key}", f"{below}/.rebundle/aside/1767225600/{key}"),
        *("--endpoint-url", "http://h:9000", "--region", "eu"),
    ]
    assert words(move_object(Gcs("my-bucket", ""), key)) == [
        *(
            "gcloud",
            "storage",
            "mv",
            f"gs://my-bucket/{key}",
            f"gs://my-bucket/.rebundle/aside/1767225600/{key}",
        ),
    ]


def test_a_relative_bucket_is_named_by_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert re.search(rf" mv {tmp_path}/bucket/a/b ", move_object(Directory(Path("bucket")), "a/b"))
