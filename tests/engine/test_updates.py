"""Changes of a running bundle under a steady load: by plain `up -d`, and by update.sh."""

import os
import re
import time

from renderers.composition import Composition, Model
from tests.support.engine_host import Host, Models, Store, eventually
from tests.support.updates import (
    FACTORS,
    ROUTER,
    UP,
    UPDATE_SH,
    Way,
    failures,
    models_on_disk,
    note,
    record,
    update_sh,
    with_models,
)

ROUNDS = int(os.environ.get("REBUNDLE_UPDATE_ROUNDS", "1"))


def test_a_model_that_joins_fails_no_call_and_misroutes_none(
    host: Host, basis: Composition, models: Models, way: Way
) -> None:
    joined = with_models(basis, models, models.tensorflow("104", "1", factor=11))
    # Which address is used again is up to the engine, so the long form repeats this.
    for _ in range(ROUNDS):
        with host.load(*FACTORS) as load:
            way.update(host, joined)
        record("a model joins", way, load)
        host.wait_for_factors(FACTORS | {"104": 11.0})
        assert failures(load) == {}
        assert {name: load.factors(name) for name in FACTORS} == {
            name: [factor] for name, factor in FACTORS.items()
        }

        with host.load(*FACTORS) as load:
            way.update(host, basis)
        record("a model leaves", way, load)
        assert failures(load) == {}
        assert "s104s" not in host.services()


def test_a_new_version_in_place_fails_no_call_and_neither_does_the_rollback(
    host: Host, basis: Composition, models: Models, way: Way
) -> None:
    before = host.containers()
    changed = with_models(
        basis,
        models,
        models.tensorflow("101", "5", factor=4, load_seconds=3, megabytes=50),
        models.tensorflow("102", "9", factor=8),
        models.triton("103", "5", factor=5),
    )
    with host.load() as load:
        way.update(host, changed)
    record("new versions, in_place", way, load)

    assert failures(load) == {}
    assert {name: load.factors(name) for name in FACTORS} == {
        "101": [3, 4],
        "102": [7, 8],
        "103": [2, 5],
    }
    assert models_on_disk(host) == {"101/5", "102/9", "103/103"}

    with host.load() as load:
        way.update(host, basis)
    record("rollback of three models", way, load)

    assert failures(load) == {}
    assert host.factors() == FACTORS
    assert models_on_disk(host) == {"101/3", "102/7", "103/103"}
    after = host.containers()
    assert {name for name in before if before[name] != after[name]} == set()


def test_a_new_version_by_restart_is_one_restart_of_its_own_service(
    host: Host, basis: Composition, models: Models, way: Way
) -> None:
    seconds = 3
    former = models.tensorflow("101", "3", factor=3, update="restart", load_seconds=seconds)
    host.update(with_models(basis, models, former))
    host.wait_for_factors(FACTORS)
    changed = models.tensorflow("101", "4", factor=4, update="restart", load_seconds=seconds)

    with host.load() as load:
        way.update(host, with_models(basis, models, changed))
        host.wait_for_factors(FACTORS | {"101": 4.0})
    record("new version, restart", way, load)

    assert set(failures(load)) == {"101"}
    if way is UPDATE_SH:
        # Two seconds more on a machine that does other work.
        assert load.results["101"].longest_outage_seconds < seconds + 4


def test_another_flag_of_a_model_is_a_switch_by_update_sh_and_one_restart_by_up(
    host: Host, basis: Composition, models: Models, way: Way
) -> None:
    former = basis.model("101")
    assert former is not None
    serving = former.serving.model_dump(exclude_none=True) | {
        "resources": {"limits": {"memory": "1g"}}
    }
    changed = Model.model_validate(former.model_dump(exclude_none=True) | {"serving": serving})

    with host.load() as load:
        way.update(host, with_models(basis, models, changed))
        host.wait_for_factors(FACTORS)
    record("flags of a model", way, load)

    assert set(failures(load)) == (set() if way is UPDATE_SH else {"101"})
    # The container that was started beside the other one is not recreated.
    before = host.containers()
    host.up()
    assert host.containers()["s101s"] == before["s101s"]


def test_other_content_under_the_same_number_is_served_after_a_restart_that_is_not_forgotten(
    host: Host, basis: Composition, models: Models, way: Way
) -> None:
    with host.load() as load:
        way.update(host, with_models(basis, models, models.tensorflow("101", "3", factor=9)))
        if way is UP:
            host.up()
    record("other content, same number", way, load)

    assert failures(load) == {}
    if way is UP:
        assert load.factors("101") == [3.0]
        assert "docker compose rm --stop --force s101s" in host.logs("model_download")
        output = update_sh(host)
        assert output.code == 0, output.text
    host.wait_for_factors(FACTORS | {"101": 9.0})
    folder = host.folder / "base/model-serving/model-download/models"
    assert list((folder / ".restart").iterdir()) == []
    host.up()
    assert models_on_disk(host) == {"101/3", "102/7", "103/103"}
    assert not (folder / ".retired/101").exists()
    # The next test starts from the basis, whose number is the same too.
    UPDATE_SH.update(host, basis)


def test_a_version_that_is_fetched_while_triton_starts_is_loaded(
    host: Host, basis: Composition, models: Models
) -> None:
    slow = models.triton("103", "3", factor=3, load_seconds=8)
    UPDATE_SH.update(host, with_models(basis, models, slow))
    host.wait_for_factors(FACTORS | {"103": 3.0})
    host.replace_base(with_models(basis, models, models.triton("103", "4", factor=4)))
    host.succeed("restart", "s103s")

    output = update_sh(host)

    assert output.code == 0, output.text
    host.wait_for_factors(FACTORS | {"103": 4.0}, seconds=5)


def test_missing_files_and_an_unreachable_store_leave_everything_running(
    host: Host, basis: Composition, models: Models, store: Store, way: Way
) -> None:
    absent = models.tensorflow("101", "4", factor=4)
    for listed in store.client().list_objects_v2(
        Bucket=store.bucket, Prefix=absent.artifact.uri.removeprefix(f"s3://{store.bucket}/")
    )["Contents"]:
        store.client().delete_object(Bucket=store.bucket, Key=listed["Key"])
    before = host.containers()

    with host.load() as load:
        began = time.monotonic()
        output = way.try_update(host, with_models(basis, models, absent))
        seconds = time.monotonic() - began
    record("new version, files missing", way, load)

    assert output.code == 1
    assert failures(load) == {}
    assert seconds < 30
    log = output.text + host.logs("model_download")
    assert re.search(r"s3:models/101/4-\w+: there are no such files", log), log
    with host.load() as load:
        host.replace_base(
            with_models(
                basis,
                models,
                models.tensorflow("101", "4", factor=4),
                models.tensorflow("102", "8", factor=8),
            )
        )
        with store.stopped():
            began = time.monotonic()
            output = way.command(host)
            seconds = time.monotonic() - began
    record("new version, store unreachable", way, load)

    assert output.code == 1
    assert failures(load) == {}
    assert seconds < 30
    log = output.text + host.logs("model_download")
    assert "the store cannot be reached" in log
    after = host.containers()
    assert {name for name in before if before[name] != after[name]} <= {"model_download"}


def test_a_bundle_whose_models_are_on_disk_starts_without_the_store(
    host: Host, store: Store, way: Way
) -> None:
    host.succeed("down")
    with store.stopped():
        began = time.monotonic()
        output = way.command(host)
        assert output.code == 0, output.text
        host.wait_for_factors(FACTORS)
    seconds = round(time.monotonic() - began, 1)
    note(change="down and up, store unreachable", way=way.name, outage=seconds)


def test_an_edited_nginx_conf_is_applied_and_a_refused_one_is_reported(host: Host) -> None:
    conf = host.directory / "conf/bundle/nginx.conf"
    rendered = conf.read_text()
    running = "grep -c client_max_body_size.7m /etc/nginx/nginx.conf"
    try:
        with host.load() as load:
            # An editor replaces the file.
            new = conf.with_suffix(".new")
            new.write_text(rendered.replace("client_max_body_size 0", "client_max_body_size 7m"))
            new.replace(conf)
            began = time.monotonic()
            eventually(lambda: host.run("exec", "-T", ROUTER, "sh", "-c", running).code == 0)
            assert time.monotonic() - began < 5
            conf.write_text("events {")
            eventually(lambda: "conf/bundle/nginx.conf is refused" in host.logs(ROUTER), 5)
            host.succeed("restart", ROUTER)
            host.wait_for_factors(FACTORS)
            assert host.run("exec", "-T", ROUTER, "sh", "-c", running).code == 0
    finally:
        conf.write_text(rendered)
    outages = [result.longest_outage_seconds for result in load.results.values()]
    # The restart of the router, and nothing else.
    assert max(outages) < 8


def test_a_version_that_the_engine_cannot_load_leaves_the_one_before_also_after_a_restart(
    host: Host, basis: Composition, models: Models, way: Way
) -> None:
    broken = with_models(
        basis,
        models,
        models.tensorflow("101", "5", factor=5, broken=True),
        models.triton("103", "5", factor=5, broken=True),
    )
    with host.load() as load:
        output = way.try_update(host, broken)

    assert output.code == 1
    assert failures(load) == {}
    log = output.text + host.logs("model_download")
    assert "101/5: s101s cannot load it, and keeps what it has" in log
    assert "103: s103s cannot load it, and keeps what it has" in log
    host.succeed("restart", "s101s", "s103s")
    host.wait_for_factors(FACTORS)
