"""What happens to hosts: restarts, crashes, replaced folders, full disks, an older release."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from renderers.composition import Composition
from tests.services.engine import Engine
from tests.support.engine_host import Host, Models, Store, eventually
from tests.support.updates import (
    FACTORS,
    ROUTER,
    UP,
    UPDATE_SH,
    Way,
    failures,
    models_on_disk,
    update_sh,
    with_models,
)

RENDERER_1 = Path(__file__).parents[1] / "data/renderer-1"


def test_restarted_containers_serve_what_they_served(host: Host) -> None:
    host.succeed("restart")

    host.wait_for_factors(FACTORS)


def test_a_router_that_comes_back_at_another_address_misroutes_no_call(host: Host) -> None:
    """An engine that crashes again and again frees and takes addresses all the time."""
    crashing = host.containers()["s101s"]
    network = next(iter(host.engine.inspect(crashing)["NetworkSettings"]["Networks"]))
    for _ in range(3):
        host.kill("s101s")
        host.kill(ROUTER)
        # A container that takes the address of the router, as that of another service could.
        taken = host.engine.run(
            *("run", "--detach", "--rm", "--network", network, host.images.busybox, "sleep", "60")
        ).strip()
        host.wait_for_factors(FACTORS)
        host.engine.run("kill", taken)
        answers = {model: host.predict(model) for model in FACTORS}
        assert {name: answer["model"] for name, answer in answers.items()} == {
            name: name for name in FACTORS
        }


@pytest.mark.parametrize("replaced_by", ["mv", "cp -r"])
def test_a_base_that_is_replaced_as_a_folder_is_applied(
    host: Host, basis: Composition, models: Models, replaced_by: str
) -> None:
    """As the README says: the folder of the models stays, or is moved into the new base/."""
    changed = with_models(basis, models, models.tensorflow("101", "4", factor=4))
    kept = Path("model-serving/model-download/models")
    old, new = host.folder / "base.old", host.folder / "base.new"
    base = host.folder / "base"
    shutil.copytree(base, new, ignore=shutil.ignore_patterns("models"))
    base.rename(old)
    new.rename(base)
    if replaced_by == "mv":
        (old / kept).rename(base / kept)
    else:
        subprocess.run(["cp", "-r", old / kept, base / kept], check=True)
    with host.load() as load:
        output = UPDATE_SH.try_update(host, changed)

    assert output.code == 0, output.text
    host.wait_for_factors(FACTORS | {"101": 4.0})
    assert failures(load) == {}
    shutil.rmtree(old)
    replaced = output.text.count("because the folder of the model was replaced")
    assert replaced == (3 if replaced_by == "cp -r" else 0), output.text


def test_a_model_that_left_without_its_container_removed_can_join_again(
    host: Host, basis: Composition, models: Models, way: Way
) -> None:
    joined = with_models(basis, models, models.tensorflow("104", "1", factor=11))
    way.update(host, joined)
    host.replace_base(basis)
    host.succeed("up", "--detach")
    assert "s104s" in host.services()
    assert host.predict("104").get("factor") is None

    way.update(host, with_models(basis, models, models.tensorflow("104", "2", factor=12)))

    host.wait_for_factors(FACTORS | {"104": 12.0})


@pytest.fixture
def older(
    deploy: Callable[[Composition], Host], basis: Composition, store: Store, models: Models
) -> Host:
    """A host with a running bundle of the previous release, and an edited nginx.conf."""
    host = deploy(basis)
    shutil.rmtree(host.directory)
    for name in ("base", "example"):
        shutil.rmtree(host.folder / name)
        shutil.copytree(RENDERER_1 / name, host.folder / name)
    images = {
        "tensorflow-serving": host.images.tensorflow_serving,
        "triton": host.images.triton,
        "model-proxy": host.images.model_proxy,
        "rclone": host.images.rclone,
        "nginx": host.images.nginx,
    }
    compose_file = host.folder / "base/bundle/docker-compose.yaml"
    text = compose_file.read_text()
    for name, image in images.items():
        text = text.replace(f"rebundle.test/{name}:released", image)
    compose_file.write_text(text)
    listed = host.folder / "base/model-serving/model-download/models.txt"
    sources = {model.id: model.artifact.uri.removeprefix("s3://") for model in basis.models}
    lines = [line.split(" ") for line in listed.read_text().splitlines()]
    listed.write_text(
        "".join(f"{folder} s3:{sources[folder.partition('/')[0]]}\n" for folder, _ in lines)
    )
    (host.folder / "base/model-serving/model-download/models").mkdir(exist_ok=True)
    host.fill_in(store)
    conf = host.directory / "conf/bundle/nginx.conf"
    conf.write_text(conf.read_text().replace("client_max_body_size 0", "client_max_body_size 9m"))
    host.up()
    host.wait_for_factors(FACTORS)
    return host


def test_a_bundle_of_the_release_before_is_updated_with_one_restart_of_the_router(
    older: Host, basis: Composition
) -> None:
    with older.load() as load:
        older.replace_base(basis)
        shutil.copy(older.folder / "example/update.sh", older.directory)
        output = update_sh(older)
    assert output.code == 0, output.text
    older.wait_for_factors(FACTORS)

    assert max(result.longest_outage_seconds for result in load.results.values()) < 8
    edited = "grep -c client_max_body_size.9m /etc/nginx/nginx.conf"
    assert older.run("exec", "-T", ROUTER, "sh", "-c", edited).code == 0
    older.up()
    assert models_on_disk(older) == {"101/3", "102/7", "103/103"}


def test_a_bundle_of_the_release_before_is_updated_by_up_without_the_store(
    older: Host, basis: Composition, store: Store
) -> None:
    with store.stopped():
        output = UP.try_update(older, basis)
        assert output.code == 0, output.text
        older.wait_for_factors(FACTORS)
    assert "103 is used as it is; whether it is complete is not known" in older.logs(
        "model_download"
    )

    older.up()

    older.wait_for_factors(FACTORS)
    assert models_on_disk(older) == {"101/3", "102/7", "103/103"}


def test_two_updates_at_once_wait_for_each_other(
    host: Host, basis: Composition, models: Models
) -> None:
    changed = with_models(basis, models, models.tensorflow("101", "4", factor=4, megabytes=30))
    host.replace_base(changed)
    command = ["run", "--rm", "-T", "--no-deps", "model_download"]
    runs = [
        subprocess.Popen(
            [host.compose.binary, *command],
            cwd=host.directory,
            env=host.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    logs = [run.communicate(timeout=120)[0] for run in runs]

    assert [run.returncode for run in runs] == [0, 0], logs
    assert sum("reading s3:" in log for log in logs) == 1
    host.wait_for_factors(FACTORS | {"101": 4.0})


def test_a_download_that_is_killed_leaves_nothing_visible_and_the_next_one_succeeds(
    host: Host, basis: Composition, models: Models, engine: Engine
) -> None:
    changed = with_models(
        basis, models, models.tensorflow("101", "4", factor=4, megabytes=200, load_seconds=0)
    )
    host.replace_base(changed)
    incoming = host.folder / "base/model-serving/model-download/models/.incoming"
    command = ["run", "--rm", "-T", "--no-deps", "--name", f"{host.project}-killed"]
    with subprocess.Popen(
        [host.compose.binary, *command, "model_download"],
        cwd=host.directory,
        env=host.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        eventually(lambda: any(path.stat().st_size for path in incoming.glob("models/101/**/*")))
        engine.run("kill", f"{host.project}-killed")
        process.wait(60)

    assert "101/4" not in models_on_disk(host)
    host.up()
    host.wait_for_factors(FACTORS | {"101": 4.0})
    assert not incoming.exists()
