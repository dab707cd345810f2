"""Runs the command line in this process, on a directory bucket with state-1, state-2 and state-3
(live).
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from daemon.cli import app
from events.errors import Problem
from events.model import Outcome, OutcomeKind
from tests.support.buckets import PublishedBucket, composition_with, in_bucket
from tests.support.journals import SCOPE, arrival, in_journal


async def publish_three(bucket: PublishedBucket) -> None:
    await bucket.publish(composition_with("1"), "state-1", 1)
    await bucket.publish(composition_with("2"), "state-2", 2)
    await bucket.publish(composition_with("2", "1"), "state-3", 3)


@pytest.fixture(scope="session")
def _published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "bucket"
    in_bucket(path, publish_three)
    return path


@pytest.fixture
def bucket(_published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bucket.

    REBUNDLE_BUCKET names it, and no other setting of this machine applies.
    """
    path = tmp_path / "bucket"
    shutil.copytree(_published, path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REBUNDLE_BUCKET", str(path))
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    return path


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def rebundle(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs the command with these arguments."""

    def run(*arguments: object) -> Result:
        code = app.run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return run


@pytest.fixture
def journal(bucket, tmp_path, monkeypatch):
    """A journal with a dead letter (e1), a waiting event (e2), and one that waits in two scopes
    (42).
    """
    path = tmp_path / "journal.db"
    monkeypatch.setenv("REBUNDLE_JOURNAL__PATH", str(path))

    async def fill(opened):
        first, _, _ = await opened.append(
            [arrival("e1"), arrival("e2"), arrival("42", SCOPE, "other/target")]
        )
        dead = Outcome(OutcomeKind.DEAD_LETTERED, "id s1 is used\033 already")
        await opened.settle(SCOPE, {first.position: dead})
        await opened.reject("http", b"{]", [Problem("$.id", "is required", "\033")])

    in_journal(path, fill, run=True)
    return path
