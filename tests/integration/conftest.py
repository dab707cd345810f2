"""The real tools, one fixture each. A test that needs a missing one is skipped with the reason."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import make_composition
from tests.services import azurite as azurite_service
from tests.services import compose as compose_service
from tests.services import gcs as gcs_service
from tests.services import ministack as ministack_service
from tests.services import nginx as nginx_service
from tests.services import rclone as rclone_service
from tests.services import versitygw as versitygw_service
from tests.services.availability import available
from tests.services.tools import SHELLS
from tests.services.tools import shell as find_shell
from tests.support.download_host import Host, s3_client
from tests.support.target_host import DeployedBundle


@pytest.fixture(scope="session", params=compose_service.EDITIONS)
def compose(request: pytest.FixtureRequest) -> compose_service.Compose:
    return available(lambda: compose_service.compose(request.param))


@pytest.fixture(scope="session")
def nginx() -> nginx_service.Nginx:
    return available(nginx_service.nginx)


@pytest.fixture(scope="session", params=SHELLS)
def shell(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The command that starts a POSIX shell."""
    return available(lambda: find_shell(request.param))


@pytest.fixture(
    scope="session",
    params=[("dash", "debian"), ("busybox", "debian"), ("dash", "newest")],
    ids="-".join,
)
def shell_and_rclone(request: pytest.FixtureRequest) -> tuple[tuple[str, ...], Path]:
    """The command that starts a POSIX shell, and an rclone: each shell and each release once, as
    they are independent.
    """
    name, edition = request.param
    return available(lambda: find_shell(name)), available(lambda: rclone_service.rclone(edition))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = ministack_service.ministack(tmp_path_factory.mktemp("ministack"))
    yield available(server.__enter__)
    server.__exit__(None, None, None)


@pytest.fixture(scope="session")
def s3_domains(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The addresses of servers that check keys and signatures, by the domain of their buckets.

    All have the same objects.
    """
    folder = tmp_path_factory.mktemp("versitygw")
    with contextlib.ExitStack() as servers:
        yield {
            domain: available(
                lambda domain=domain: servers.enter_context(
                    versitygw_service.versitygw_with_names(folder, domain)
                )
            )
            for domain in ("s3.example.com", "s3.us-east-1.amazonaws.com", "storage.googleapis.com")
        }


@pytest.fixture(scope="session")
def azure_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[azurite_service.Azurite]:
    server = azurite_service.azurite(tmp_path_factory.mktemp("azurite"))
    yield available(server.__enter__)
    server.__exit__(None, None, None)


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gcs_service.Gcs]:
    server = gcs_service.gcs(tmp_path_factory.mktemp("gcs"))
    yield available(server.__enter__)
    server.__exit__(None, None, None)


@pytest.fixture
def token_endpoint() -> Iterator[gcs_service.TokenEndpoint]:
    with gcs_service.token_endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def host(
    shell_and_rclone: tuple[tuple[str, ...], Path],
    s3_server: str,
    gcs_server: gcs_service.Gcs,
    tmp_path: Path,
) -> Host:
    bucket = f"b-{tmp_path.name.replace('_', '-').lower()}"[:60].rstrip("-")
    client = s3_client(s3_server)
    client.create_bucket(Bucket=bucket)
    gcs_server.create_bucket(bucket)
    bundle = DeployedBundle.install(make_composition(1), tmp_path / "a host")
    found = Host(bundle, *shell_and_rclone, s3_server, bucket, client, gcs_server)
    found.models.mkdir()
    found.router.mkdir()
    return found
