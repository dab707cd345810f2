"""Decisions at the start of the service: the number of connections, and how commands name its
bucket.
"""

import pytest
from structlog.testing import capture_logs

from daemon import service
from daemon.stores import locations


@pytest.mark.parametrize(
    ("open_files", "connections"), [(65536, 1000), (1200, 1000), (1024, 824), (64, 16)]
)
def test_the_connection_limit_reserves_descriptors_for_the_bucket(
    monkeypatch: pytest.MonkeyPatch, open_files: int, connections: int
) -> None:
    monkeypatch.setattr(service.resource, "getrlimit", lambda _: (open_files, 65536))
    with capture_logs() as logs:
        assert service._most_connections(1000) == connections
    assert [line["hint"].startswith("ulimit -n 1200") for line in logs] == [True] * (
        connections < 1000
    )


@pytest.mark.parametrize(
    "bucket", ["my bundles", "file:///srv/my%20bundles", "s3://bundles/team?region=eu-1"]
)
def test_a_suggested_command_names_the_bucket_from_any_folder(bucket, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    expected = {"my": str(tmp_path / "my bundles"), "fi": "/srv/my bundles", "s3": bucket}[
        bucket[:2]
    ]
    assert service._from_any_folder(locations.parse(bucket), bucket) == expected
