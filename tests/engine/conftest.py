"""The engine, its images and an S3 store. Without them the tests are skipped with the reason."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from renderers.composition import Composition
from tests.services import compose as compose_service
from tests.services import engine as engine_service
from tests.services import images as images_service
from tests.services.availability import available
from tests.services.compose import Compose
from tests.services.engine import Engine
from tests.services.images import Images
from tests.support.engine_host import Host, Models, Store
from tests.support.updates import FACTORS, UP, UPDATE_SH, Way


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    running = engine_service.engine()
    yield available(running.__enter__)
    running.__exit__(None, None, None)


@pytest.fixture(scope="session")
def images(engine: Engine) -> Images:
    return available(lambda: images_service.images(engine))


@pytest.fixture(scope="session")
def compose() -> Compose:
    return available(lambda: compose_service.compose("newest"))


@pytest.fixture(scope="session")
def store(engine: Engine, images: Images) -> Iterator[Store]:
    with Store.running(engine, images) as running:
        yield running


@pytest.fixture(scope="session")
def models(images: Images, store: Store) -> Models:
    return Models(images, store)


@pytest.fixture(scope="module")
def deploy(
    engine: Engine,
    images: Images,
    store: Store,
    compose: Compose,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[Composition], Host]]:
    """Deploys a bundle to a host of its own, which is removed after the module's tests."""
    hosts: list[Host] = []

    def deploy_bundle(composition: Composition, compose: Compose = compose) -> Host:
        folder: Path = tmp_path_factory.mktemp("a host")
        hosts.append(Host.deploy(engine, compose, composition, folder, store, images))
        return hosts[-1]

    yield deploy_bundle
    for host in hosts:
        host.remove()


@pytest.fixture(params=[UP, UPDATE_SH], ids=["up", "update.sh"])
def way(request: pytest.FixtureRequest) -> Way:
    return request.param


@pytest.fixture(scope="module")
def basis(models: Models) -> Composition:
    """The bundle that the tests start from, with FACTORS."""
    return models.bundle(
        models.tensorflow("101", "3", factor=3),
        models.tensorflow("102", "7", factor=7),
        models.triton("103", "2", factor=2),
    )


@pytest.fixture(scope="module")
def factors() -> Mapping[str, float]:
    """The factors of `basis`."""
    return FACTORS


@pytest.fixture(scope="module")
def deployed(
    deploy: Callable[[Composition], Host], basis: Composition, factors: Mapping[str, float]
) -> Host:
    host = deploy(basis)
    host.up()
    host.wait_for_factors(factors)
    return host


@pytest.fixture
def host(deployed: Host, basis: Composition, factors: Mapping[str, float]) -> Host:
    """The host with the basis, whatever the test before has done."""
    (deployed.directory / "docker-compose.override.yaml").unlink(missing_ok=True)
    deployed.replace_base(basis)
    deployed.run("up", "--detach", "--remove-orphans")
    deployed.wait_for_factors(factors)
    return deployed
