"""Keys of objects: exactly those of the protocol, because existing buckets have them."""

import pytest

from daemon.publishing import layout
from tests.builders_publishing import SCOPE

NAME = "visual-anomaly/core-versions"


def test_every_object_of_a_scope_has_the_key_of_the_protocol() -> None:
    assert layout.pointer(SCOPE) == f"{NAME}/pointer.json"
    assert layout.freshness(SCOPE) == f"{NAME}/freshness.json"
    assert layout.histories(SCOPE) == f"{NAME}/history/"
    assert layout.history(SCOPE, 1, 64, "w") == f"{NAME}/history/1-64-w.json"
    assert layout.states(SCOPE) == f"{NAME}/states/"
    assert layout.archive(SCOPE, "state-1", "a") == f"{NAME}/states/state-1/a/bundle.tar.gz"
    assert layout.manifest(SCOPE, "state-1", "a") == f"{NAME}/states/state-1/a/manifest.json"
    assert layout.signature(SCOPE, "state-1", "a") == f"{NAME}/states/state-1/a/manifest.dsse.json"
    assert layout.live_tree(SCOPE) == f"{NAME}/docker-compose-gen/"
    assert layout.live_tree(SCOPE, "base/x") == f"{NAME}/docker-compose-gen/base/x"
    assert layout.all_replaced(SCOPE) == f"{NAME}/.rebundle/replaced/"
    assert layout.replaced(SCOPE, "base/x", "0f") == f"{NAME}/.rebundle/replaced/base/x/0f"


@pytest.mark.parametrize(
    "name",
    ["1-64-w.json", "1-64-.json", "9007199254740991-9007199254740991-" + "a" * 128 + ".json"],
)
def test_the_key_of_a_chunk_is_recognised(name: str) -> None:
    assert layout.is_history(SCOPE, f"{NAME}/history/{name}")


@pytest.mark.parametrize(
    "key",
    [
        f"{NAME}/history/",
        f"{NAME}/history/1-64.json",
        f"{NAME}/history/x.json",
        f"{NAME}/history/1-64-a/b.json",
        f"{NAME}/history/1-64-w.json\n",
        f"{NAME}/history/1-64-w.jsonl",
        f"{NAME}/states/1-64-w.json",
        f"other/{NAME}/history/1-64-w.json",
        "visual-anomaly/core/history/1-64-w.json",
        "1-64-w.json",
    ],
)
def test_no_other_key_is_recognised_as_a_chunk(key: str) -> None:
    assert not layout.is_history(SCOPE, key)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a/b/docker-compose-gen/example/creds/s3.env", True),
        ("a/b/docker-compose-gen/example/conf/s3.env", False),
        ("a/b/.rebundle/replaced/1/example/conf/x", False),
    ],
)
def test_the_key_of_a_credential_is_recognised(key: str, expected: bool) -> None:
    assert layout.is_credential(key) is expected
