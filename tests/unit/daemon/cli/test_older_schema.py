"""Every command refuses a bucket of schema 1 with exit code 4, and none advises a recovery (ADR
29).
"""

from pathlib import Path

import pytest

from tests.support.buckets import SCOPE

STORED = Path(__file__).parents[3] / "data" / "stored" / "schema-1"
COMMANDS = [
    ("status", SCOPE),
    ("states", SCOPE),
    ("status",),
    ("verify", "--all"),
    ("gc", "--all"),
    ("gc", SCOPE),
    ("rollback", SCOPE, "state-1", "--reason", "drift"),
    ("recover", SCOPE, "--reason", "it looks lost"),
    ("recover", SCOPE, "--dry-run", "--reason", "it looks lost"),
]


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    scope = tmp_path / "bucket" / str(SCOPE)
    scope.mkdir(parents=True)
    (scope / "pointer.json").write_bytes((STORED / "pointer.json").read_bytes())
    monkeypatch.setenv("REBUNDLE_BUCKET", str(tmp_path / "bucket"))
    return tmp_path / "bucket"


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: " ".join(map(str, arguments)))
def test_a_command_refuses_a_bucket_of_schema_1(bucket, rebundle, arguments):
    result = rebundle(*arguments)

    said = result.out + result.err
    assert result.code == 4, said
    assert "pointer.json has schema 1" in said
    assert "a new journal and a new trust.state_file" in said
    assert "rebundle recover" not in said
