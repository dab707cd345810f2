"""What goes wrong at customers' sites, on a bundle of two models that runs: what a person reads, and
that the other model answers every call.

`Fault.reported` is what update.sh prints, and `Fault.reported_by_up` what `docker compose up -d`, `logs` and
`ps -a` print, where they cannot say the same.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from renderers.composition import Composition, Model
from tests.support.engine_host import Host, Models, Store, eventually
from tests.support.updates import ROUTER, UP, UPDATE_SH, Way, failures, update_sh, with_models

FACTORS = {"101": 3.0, "102": 7.0}
ENV, CREDENTIALS, NGINX = "conf/bundle/.env", "creds/bundle/.env", "conf/bundle/nginx.conf"
NO_NGINX = "router: conf/bundle/nginx.conf is missing: copy it from /example/conf/bundle"


@pytest.fixture(scope="module")
def basis(models: Models) -> Composition:
    return models.bundle(
        models.tensorflow("101", "3", factor=3), models.tensorflow("102", "7", factor=7)
    )


@pytest.fixture(scope="module")
def factors() -> Mapping[str, float]:
    return FACTORS


@pytest.fixture
def host(deployed: Host, basis: Composition, tmp_path: Path) -> Iterator[Host]:
    """The host with the basis, which is repaired after the test."""
    kept = tmp_path / "prod"
    shutil.copytree(deployed.directory, kept)
    yield deployed
    shutil.rmtree(deployed.directory)
    shutil.copytree(kept, deployed.directory)
    deployed.replace_base(basis)
    deployed.up()
    deployed.wait_for_factors(FACTORS)


@dataclass(frozen=True, slots=True)
class Fault:
    """`make`: what a person does wrong. `reported` is a regular expression, as `reported_by_up`.

    `is_seen_by_up`: otherwise `up` succeeds. `stopped_by`: the ways that stop the model with the
    fault; by the others it serves as before.
    """

    make: Callable[[Host, Models], None]
    reported: str
    reported_by_up: str = ""
    is_seen_by_up: bool = True
    stopped_by: tuple[Way, ...] = ()


def version(**serving: Any) -> Callable[[Host, Models], None]:
    """A new version of 101, with fields of `serving`."""

    def make(host: Host, models: Models) -> None:
        changed = models.tensorflow("101", "4", factor=3, **serving)
        host.replace_base(with_models(host.composition, models, changed))

    return make


def version_with(file: str, **values: str) -> Callable[[Host, Models], None]:
    """A new version of 101, with variables in a file."""

    def make(host: Host, models: Models) -> None:
        version()(host, models)
        host.set(file, **values)

    return make


def setting(file: str, **values: str) -> Callable[[Host, Models], None]:
    return lambda host, _: host.set(file, **values)


def without(file: str) -> Callable[[Host, Models], None]:
    return lambda host, _: (host.directory / file).unlink()


def line(file: str, text: str) -> Callable[[Host, Models], None]:
    def make(host: Host, _: Models) -> None:
        with (host.directory / file).open("a") as opened:
            opened.write(f"{text}\n")

    return make


def credentials_left_as_they_are(host: Host, models: Models) -> None:
    version()(host, models)
    shutil.copy(host.folder / "example" / CREDENTIALS, host.directory / CREDENTIALS)


def bucket_that_does_not_exist(host: Host, models: Models) -> None:
    document = models.tensorflow("101", "4", factor=3).model_dump(mode="json", exclude_none=True)
    document["artifact"]["uri"] = "s3://no-such-bucket/101/4"
    changed = Model.model_validate(document)
    host.replace_base(with_models(host.composition, models, changed))


def engine_that_ends(host: Host, _: Models) -> None:
    text = "services:\n  s101s:\n    command: !override [--no_such_flag=1]\n"
    (host.directory / "docker-compose.override.yaml").write_text(text)


FAULTS = {
    "wrong secret": Fault(
        version_with(CREDENTIALS, RCLONE_S3_SECRET_ACCESS_KEY="wrong"),
        r"access is refused: check the credentials in creds/bundle/\.env \(.*SignatureDoesNotMatch",
    ),
    "credentials left as they are": Fault(
        credentials_left_as_they_are,
        r"the store cannot be reached: check the network, and the endpoint in creds/bundle/\.env, "
        "where RCLONE_S3_ACCESS_KEY_ID is empty",
    ),
    "no such bucket": Fault(
        bucket_that_does_not_exist,
        r"s3:no-such-bucket/101/4: there are no such files: check the URI of the artifact",
    ),
    "REL_DIR is another place": Fault(
        setting(".env", REL_DIR="/no/such/place"),
        r"/no/such/place/conf/bundle/\.env: REL_DIR in \.env has to be /.*/prod, and ",
        r"/no/such/place/conf/bundle/\.env",
    ),
    "REL_DIR is empty": Fault(
        setting(".env", REL_DIR=""),
        r"REL_DIR is missing a value: set it in \.env to the full path of this directory",
    ),
    "REL_DIR is relative": Fault(
        setting(".env", REL_DIR="."),
        r"base/bundle/creds/bundle/\.env.*: REL_DIR in \.env has to be /.*/prod, and ",
        r"base/bundle/creds/bundle/\.env",
    ),
    "no configuration": Fault(
        without(ENV),
        r"prod/conf/bundle/\.env: .* a file that is missing there is in /example",
        r"prod/conf/bundle/\.env",
    ),
    "no credentials": Fault(
        without(CREDENTIALS),
        r"prod/creds/bundle/\.env.*: .* a file that is missing there is in /example",
        r"prod/creds/bundle/\.env",
    ),
    "no such image": Fault(
        version(image="rebundle.test/no-such-image:1"),
        r"rebundle\.test/no-such-image:1 cannot be pulled, and no container was changed",
        r"rebundle\.test/no-such-image:1",
    ),
    "more memory than the limit": Fault(
        version(resources={"limits": {"memory": "12m"}}),
        r"s101s: its memory limit is too low for it: raise SERVING_101_MEM_LIMIT in conf/bundle",
        r"s101s-1 .* Restarting \(137\)",
        is_seen_by_up=False,
        stopped_by=(UP,),
    ),
    "a reservation above the limit": Fault(
        version(resources={"limits": {"memory": "100m"}, "reservations": {"memory": "200m"}}),
        r"memory limit can not be less than memory reservation limit",
    ),
    "more CPUs than the host has": Fault(
        line(ENV, "SERVING_101_CPU_LIMIT=64"),
        r"s101s may use 64 CPUs, and this host has .* set SERVING_101_CPU_LIMIT in conf/bundle/",
        r"s101s.* Range of CPUs is from ",
    ),
    "all GPUs without the runtime": Fault(
        version(gpu={"count": "all"}),
        r"s101s: docker has no runtime nvidia here, .* 'runtime: runc' in docker-compose\.override",
        r"s101s.* Unknown runtime specified nvidia",
    ),
    "a GPU that is not there": Fault(
        version(gpu={"count": 1}),
        r"s101s: docker cannot give GPUs here, .* 'devices: !reset \[\]' in docker-compose",
        r'could not select device driver "" with capabilities: \[\[gpu\]\]',
        stopped_by=(UP,),
    ),
    "an engine that ends again and again": Fault(
        engine_that_ends,
        r"unknown argument: --no_such_flag=1\n.*the new container does not become healthy \(.*\), and the",
        r"unknown argument: --no_such_flag=1\n(.*\n)*.*s101s-1 .* Restarting \(1\)",
        is_seen_by_up=False,
        stopped_by=(UP,),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_one_model_is_reported_and_the_other_model_fails_no_call(
    host: Host, models: Models, way: Way, name: str
) -> None:
    fault = FAULTS[name]
    reported = fault.reported_by_up or fault.reported if way is UP else fault.reported
    with host.load("102") as load:
        fault.make(host, models)
        output = way.command(host)
        # Only update.sh waits for what engines print.
        eventually(lambda: re.search(reported, output.text + (seen(host) if way is UP else "")), 10)

    assert output.code == (1 if way is UPDATE_SH or fault.is_seen_by_up else 0), output.text
    assert failures(load) == {}
    if way not in fault.stopped_by:
        assert host.predict("101").get("factor") == 3


def seen(host: Host) -> str:
    """What the commands print that a person calls next."""
    return host.run("logs", "--no-color").text + host.run("ps", "--all").text


def test_a_port_that_another_program_has_is_reported_and_the_router_fails_no_call(
    host: Host, store: Store
) -> None:
    host.set(ENV, MODEL_PROXY_HTTP_PORT=store.endpoint.rpartition(":")[2])

    with host.load() as load:
        output = UPDATE_SH.command(host)

    assert output.code == 1
    assert re.search(r"address already in use|port is already allocated", output.text)
    assert failures(load) == {}


def test_a_router_without_its_configuration_says_so_and_keeps_the_one_before(host: Host) -> None:
    with host.load() as load:
        (host.directory / NGINX).unlink()
        eventually(lambda: NO_NGINX in host.logs(ROUTER), 10)
        host.succeed("up", "--detach", "--force-recreate", "--no-deps", ROUTER)
        host.wait_for_factors(FACTORS)

    # Its restart, and nothing else.
    assert max(result.longest_outage_seconds for result in load.results.values()) < 8


def test_a_first_start_without_the_configuration_of_the_router_says_so_and_waits_for_it(
    deploy: Callable[[Composition], Host], basis: Composition
) -> None:
    host = deploy(basis)
    (host.directory / NGINX).rename(host.folder / "nginx.conf")
    host.up()
    eventually(lambda: NO_NGINX in host.logs(ROUTER), 10)
    assert not (host.directory / NGINX).exists()

    (host.folder / "nginx.conf").rename(host.directory / NGINX)

    host.wait_for_factors(FACTORS)


def test_the_configuration_of_another_deployment_is_a_warning(host: Host) -> None:
    assert "warning" not in update_sh(host, "--dry-run").text
    other = host.folder / "other"
    shutil.copytree(host.directory, other, dirs_exist_ok=True)
    host.set(".env", REL_DIR=str(other))

    output = update_sh(host, "--dry-run")

    assert f"warning: REL_DIR in .env is {other}, so the configuration and" in output.text
    assert output.code == 0
