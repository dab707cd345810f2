"""`rebundle republish`: renders and publishes desired again, with the present settings."""

import json
import re

import pytest

from daemon.publishing import operator_commands, protocol
from daemon.publishing.errors import OperationRefused
from renderers.bundle import RENDERER_VERSION
from renderers.template_set import Templates
from tests.support.buckets import SCOPE, composition_with, in_bucket, pointer


def test_desired_is_re_rendered_under_its_id_with_the_configured_defaults(
    bucket, rebundle, monkeypatch
):
    monkeypatch.setenv("REBUNDLE_RENDER__ROUTER_IMAGE", "registry.example.com/nginx:9.9")
    before = pointer(bucket).live

    result = rebundle("republish", SCOPE, "--reason", "new router", "--by", "alice")

    after = pointer(bucket)
    assert result.code == 0
    assert (after.live.state, after.live.revision) == (before.state, before.revision)
    assert after.live.attempt != before.attempt
    assert "restart it" in result.err
    assert after.history[-1].by == "alice"
    compose = bucket / str(SCOPE) / "docker-compose-gen/base/bundle/docker-compose.yaml"
    assert b"registry.example.com/nginx:9.9" in compose.read_bytes()
    assert [event["id"] for event in rebundle("show", SCOPE, "-o", "json").json["events"]] == [
        "event-of-state-3"
    ]
    assert rebundle("verify", SCOPE).code == 0


def test_a_dry_run_shows_what_would_differ_and_writes_nothing(bucket, rebundle, monkeypatch):
    rebundle("republish", SCOPE)
    monkeypatch.setenv("REBUNDLE_RENDER__ROUTER_IMAGE", "docker.io/library/nginx:9.9")
    before = contents(bucket)
    sequence = pointer(bucket).sequence

    result = rebundle("republish", SCOPE, "--dry-run")
    preview = rebundle("republish", SCOPE, "--dry-run", "-o", "json").json

    assert (result.code, contents(bucket)) == (0, before)
    assert result.err.startswith("1 file differs; example/creds/ is not compared\n")
    assert "restart it" in result.err
    assert f"republish (would be sequence {sequence} → {sequence + 1})" in result.out
    assert "+    image: docker.io/library/nginx:9.9" in result.out.splitlines()
    assert (preview["operation"], preview["scope"], preview["changed"], preview["dry_run"]) == (
        "republish",
        str(SCOPE),
        True,
        True,
    )
    assert (preview["before"]["sequence"], preview["after"]["sequence"]) == (sequence, sequence + 1)
    assert preview["after"]["live"]["state"] == "state-3"
    assert preview["after"]["live"]["attempt"] == ""
    (changed,) = preview["files"]
    assert (changed["path"], changed["status"]) == ("base/bundle/docker-compose.yaml", "modified")
    assert "+    image: docker.io/library/nginx:9.9\n" in changed["diff"]


def test_a_dry_run_reports_that_nothing_would_differ(bucket, rebundle):
    rebundle("republish", SCOPE)

    result = rebundle("republish", SCOPE, "--dry-run")

    assert result.code == 0
    assert result.err == "no file differs; example/creds/ is not compared\n"
    assert "--- a/" not in result.out
    assert rebundle("republish", SCOPE, "--dry-run", "-o", "json").json["files"] == []


def test_a_dry_run_under_a_hold_leaves_live_where_it_is(bucket, rebundle):
    rebundle("hold", SCOPE, "--reason", "freeze")
    live = pointer(bucket).live

    result = rebundle("republish", SCOPE, "--dry-run")
    after = rebundle("republish", SCOPE, "--dry-run", "-o", "json").json["after"]

    assert "freeze" in result.out
    assert (after["live"]["attempt"], after["desired"]["attempt"]) == (live.attempt, "")


@pytest.mark.parametrize(
    "harm",
    [lambda archive: archive.unlink(), lambda archive: archive.write_bytes(b"\0" * 8)],
    ids=["gone", "damaged"],
)
def test_a_dry_run_continues_where_the_command_would_repair_a_publication(bucket, rebundle, harm):
    live = pointer(bucket).live
    harm(bucket / str(SCOPE) / "states" / live.state / live.attempt / "bundle.tar.gz")

    result = rebundle("republish", SCOPE, "--dry-run")

    assert result.code == 0
    assert "the published files cannot be read and would be replaced: " in result.err
    assert re.search(r"^[1-9]\d* files differ;", result.err, re.MULTILINE)
    assert "--- /dev/null" in result.out
    assert rebundle("republish", SCOPE).code == 0


def test_a_dry_run_is_refused_like_the_command(bucket, rebundle, monkeypatch):
    monkeypatch.setenv("REBUNDLE_PUBLISH__PINNING", "require")

    result = rebundle("republish", SCOPE, "--dry-run")

    assert (result.code, "not pinned by digest: image" in result.err) == (1, True)


@pytest.mark.parametrize("command", ["republish", "hold"])
def test_a_dry_run_on_the_pointer_of_a_newer_release_is_refused_like_the_command(
    bucket, rebundle, command
):
    path = bucket / str(SCOPE) / "pointer.json"
    path.write_bytes(path.read_bytes().replace(b'"schema":2', b'"schema":99'))

    for arguments in ((), ("--dry-run",)):
        result = rebundle(command, SCOPE, "--reason", "a look", *arguments)
        assert (result.code, "written by a newer release" in result.err) == (4, True)


def contents(bucket):
    return {path: path.read_bytes() for path in bucket.rglob("*") if path.is_file()}


def test_mutable_references_are_refused_where_the_setting_requires_it(
    bucket, rebundle, monkeypatch
):
    monkeypatch.setenv("REBUNDLE_PUBLISH__PINNING", "require")
    before = pointer(bucket)

    result = rebundle("republish", SCOPE)

    assert (result.code, "not pinned by digest: image" in result.err) == (1, True)
    assert pointer(bucket) == before


def test_a_hold_keeps_the_old_attempt_live(bucket, rebundle):
    rebundle("hold", SCOPE, "--reason", "freeze")
    before = pointer(bucket).live

    assert rebundle("republish", SCOPE).code == 0
    assert "restart it" not in rebundle("republish", SCOPE).err

    assert pointer(bucket).live.id == before.id
    assert pointer(bucket).desired.id != before.id


def test_a_retired_scope_has_nothing_to_republish(bucket, rebundle):
    rebundle("retire", SCOPE, "--reason", "gone", "--yes")

    assert rebundle("republish", SCOPE).code == 3


def test_a_publication_of_a_newer_renderer_is_not_overwritten(bucket, rebundle):
    path = bucket / str(SCOPE) / "pointer.json"
    text, own = path.read_text(), f'"renderer":"{RENDERER_VERSION}"'
    assert own in text
    path.write_text(text.replace(own, '"renderer":"999.1"'))

    result = rebundle("republish", SCOPE)

    assert result.code == 4
    assert "newer release" in result.err


def test_a_rendering_of_an_outdated_desired_state_is_not_published(bucket):
    async def race(published):
        before = await published.pointer()
        rendered = await rendered_again(published, before)
        await published.publish(composition_with("4"), "state-4", 4)
        await published.operations.carry_out(
            SCOPE, operator_commands.republish(before, rendered), "op"
        )

    with pytest.raises(OperationRefused, match="republish again"):
        in_bucket(bucket, race)
    assert pointer(bucket).desired.state == "state-4"


def test_a_state_stored_before_a_collection_is_not_published_after_it(bucket):
    async def race(published):
        before = await published.pointer()
        rendered = await rendered_again(published, before)
        await published.operations.carry_out(
            SCOPE, lambda pointer, writing: protocol.collect(pointer, writing, ()), "cron"
        )
        await published.operations.carry_out(
            SCOPE, operator_commands.republish(before, rendered), "op"
        )

    with pytest.raises(OperationRefused, match="was garbage-collected"):
        in_bucket(bucket, race)
    assert pointer(bucket).kind == "gc"


async def rendered_again(published, before):
    return await published.store_state(
        composition_with("2", "1"), before.desired.state, before.desired.revision
    )


def test_the_templates_and_defaults_of_a_scope_are_rendered_and_recorded(
    bucket, rebundle, tmp_path
):
    own = tmp_path / "own"
    own.mkdir()
    (own / "header.yaml").write_text("# Ours.\nservices:\n")
    config = tmp_path / "rebundle.toml"
    config.write_text(f'[scopes."{SCOPE}"]\ntemplates = "own"\nrender.restart = "always"\n')

    assert rebundle("republish", SCOPE, "--config", config).code == 0

    live = pointer(bucket).live
    compose = (
        bucket / str(SCOPE) / "docker-compose-gen/base/bundle/docker-compose.yaml"
    ).read_text()
    manifest = json.loads(
        (bucket / str(SCOPE) / f"states/{live.state}/{live.attempt}/manifest.json").read_bytes()
    )
    assert compose.startswith("# Ours.\nservices:\n")
    assert "restart: always" in compose
    assert manifest["render_defaults"]["restart"] == "always"
    assert (
        manifest["templates"]
        == Templates.built_in().overridden_by({"header.yaml": "# Ours.\nservices:\n"}).digest
    )


def test_the_settings_of_a_scope_apply_to_no_other_scope(bucket, rebundle, tmp_path):
    config = tmp_path / "rebundle.toml"
    config.write_text('[scopes."other/target"]\ntemplates = "nowhere"\nrender.restart = "always"\n')

    assert rebundle("republish", SCOPE, "--config", config).code == 0

    compose = bucket / str(SCOPE) / "docker-compose-gen/base/bundle/docker-compose.yaml"
    assert "restart: always" not in compose.read_text()
