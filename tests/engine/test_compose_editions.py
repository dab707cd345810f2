"""The releases of Docker Compose that a bundle supports, each with a bundle on the engine."""

from collections.abc import Callable

import pytest

from tests.services import compose as compose_service
from tests.services.availability import available
from tests.services.compose import Compose
from tests.support.engine_host import Host, Models
from tests.support.updates import UPDATE_SH, failures


@pytest.fixture(scope="module", params=compose_service.ENGINE_EDITIONS)
def edition(request: pytest.FixtureRequest) -> Compose:
    return available(lambda: compose_service.compose(request.param))


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


def test_a_model_that_leaves_recreates_no_other(
    edition: Compose, deploy: Callable[..., Host], models: Models
) -> None:
    """Up to 2.28, Compose recreates every service that depends on a recreated one, as all models
    depend on model_download (`setDependentLifecycle` of its pkg/compose/convergence.go).
    """
    kept = models.tensorflow("101", "3", factor=3)
    host = deploy(models.bundle(kept, models.tensorflow("102", "7", factor=7)), compose=edition)
    host.up()
    before = host.containers()
    host.update(models.bundle(kept))

    assert set(before) - set(host.containers()) == {"s102s"}
    assert host.containers()["s101s"] == before["s101s"]


def test_update_sh_fails_no_call_for_a_version_and_restarts_old_releases_once_for_a_flag(
    request: pytest.FixtureRequest, edition: Compose, deploy: Callable[..., Host], models: Models
) -> None:
    """An old release counts the scale among what a container is made of, so that a container which
    was started beside another one would be replaced.
    """
    is_old = request.node.callspec.params["edition"] == "2.22.0"
    other = models.tensorflow("102", "7", factor=7)
    host = deploy(models.bundle(models.tensorflow("101", "3", factor=3), other), compose=edition)
    host.up()
    host.wait_for_factors({"101": 3, "102": 7})
    limits = {"resources": {"limits": {"memory": "1g"}}}

    with host.load() as load:
        for version, serving in (("4", {}), ("5", limits)):
            changed = models.tensorflow("101", version, factor=float(version), **serving)
            UPDATE_SH.update(host, models.bundle(changed, other))

    assert failures(load).keys() == ({"101"} if is_old else set())
    assert load.factors("101") == [3, 4, 5]
    before = host.containers()
    host.up()
    assert host.containers() == before
