"""A bundle of three models on a real engine: it starts, answers, and stays as it is."""

from collections.abc import Callable

from renderers.composition import Composition
from tests.services.engine import Engine
from tests.support.engine_host import Host, eventually
from tests.support.updates import FACTORS


def test_each_model_answers_with_its_own_factor_through_the_proxy_and_through_the_router(
    host: Host,
) -> None:
    with host.load(seconds=1) as load:
        answers = {model: host.predict(model) for model in FACTORS}

    assert {model: answer["factor"] for model, answer in answers.items()} == FACTORS
    assert {model: answer["model"] for model, answer in answers.items()} == {
        model: model for model in FACTORS
    }
    assert {model: load.factors(model) for model in FACTORS} == {
        model: [factor] for model, factor in FACTORS.items()
    }
    assert {model: load.failed(model) for model in FACTORS} == dict.fromkeys(FACTORS, 0)


def test_an_up_without_a_change_recreates_nothing_and_fails_no_call(host: Host) -> None:
    before = host.containers()
    with host.load() as load:
        host.up()

    assert host.containers() == before
    assert {model: load.results[model].failures for model in FACTORS} == {
        model: {} for model in FACTORS
    }
    assert min(load.results[model].calls for model in FACTORS) > 10


def test_an_engine_that_is_killed_comes_back_and_the_other_models_fail_no_call(host: Host) -> None:
    with host.load() as load:
        host.kill("s101s")
        eventually(lambda: host.restarts("s101s") == 1)
        host.wait_for_factors(FACTORS)

    assert load.failed("101") > 0
    assert set(load.results["101"].failures) == {
        "UNAVAILABLE: the service of this model is not available"
    }
    assert (load.failed("102"), load.failed("103")) == (0, 0)


def test_a_bundle_leaves_nothing_behind_when_it_is_removed(
    deploy: Callable[[Composition], Host], basis: Composition, engine: Engine
) -> None:
    other = deploy(basis)
    other.up()
    other.remove()

    label = f"label=com.docker.compose.project={other.project}"
    for kind in ("container", "network", "volume"):
        words = ("--all",) if kind == "container" else ()
        assert not engine.run(kind, "ls", *words, "--quiet", "--filter", label).split()
