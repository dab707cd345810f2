"""The releases of Docker Compose that a bundle supports, each with a bundle on the engine."""

from collections.abc import Callable

import pytest

from tests.services import compose as compose_service
from tests.services.availability import available
from tests.services.compose import Compose
from tests.support.engine_host import Host, Models


@pytest.fixture(scope="module", params=compose_service.ENGINE_EDITIONS)
def edition(request: pytest.FixtureRequest) -> Compose:
    return available(lambda: compose_service.compose(request.param))


@pytest.fixture
def cascades(request: pytest.FixtureRequest, edition: Compose) -> None:
    """Up to 2.28, Compose recreates every service that depends on a recreated one, here on
    model_download (`setDependentLifecycle` of its pkg/compose/convergence.go).
    """
    if request.node.callspec.params["edition"] == "2.22.0":
        reason = "Compose before 2.29 recreates what depends on a recreated service"
        request.node.add_marker(pytest.mark.xfail(reason=reason))


def test_a_bundle_starts_and_stays_as_it_is(
    edition: Compose, deploy: Callable[..., Host], models: Models
) -> None:
    host = deploy(
        models.bundle(
            models.tensorflow("101", "3", factor=3), models.tensorflow("102", "7", factor=7)
        ),
        compose=edition,
    )
    host.up()
    host.wait_for_factors({"101": 3, "102": 7})

    before = host.containers()
    host.up()
    assert host.containers() == before


@pytest.mark.usefixtures("cascades")
def test_a_model_that_leaves_recreates_no_other(
    edition: Compose, deploy: Callable[..., Host], models: Models
) -> None:
    kept = models.tensorflow("101", "3", factor=3)
    host = deploy(models.bundle(kept, models.tensorflow("102", "7", factor=7)), compose=edition)
    host.up()
    before = host.containers()
    host.update(models.bundle(kept))

    assert set(before) - set(host.containers()) == {"s102s"}
    assert host.containers()["s101s"] == before["s101s"]
