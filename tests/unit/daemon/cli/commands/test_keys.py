"""`rebundle keys`: keys from generation to revocation, and the other commands with a trust policy."""

import json
import os
import shlex
import shutil
import stat
from pathlib import Path

import pytest

from tests.support.buckets import SCOPE


@pytest.fixture
def policy(bucket, rebundle, tmp_path, monkeypatch) -> Path:
    """One key, which signs everything here and which the policy trusts."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert rebundle("keys", "generate", tmp_path / "one.key").code == 0
    assert rebundle("keys", "trust", tmp_path / "policy.json", tmp_path / "one.key.pub").code == 0
    monkeypatch.setenv("REBUNDLE_SIGNING__KEY_FILE", str(tmp_path / "one.key"))
    return tmp_path / "policy.json"


@pytest.fixture
def trusting(policy, rebundle, monkeypatch) -> Path:
    """A signed bucket, read with the trust policy."""
    assert rebundle("republish", SCOPE).code == 0
    monkeypatch.setenv("REBUNDLE_TRUST__POLICY", str(policy))
    return policy


def keyids(policy: Path) -> list[str]:
    return [key["keyid"] for key in json.loads(policy.read_text())["keys"]]


def test_a_new_key_is_private_to_its_owner_and_never_overwritten(rebundle, tmp_path):
    made = rebundle("keys", "generate", tmp_path / "k", "-o", "json")
    again = rebundle("keys", "generate", tmp_path / "k")

    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600
    assert len(made.json["keyid"]) == 64
    assert "PRIVATE" not in made.out + made.err
    assert (again.code, "never overwritten" in again.err) == (2, True)


def test_signed_documents_pass_and_those_older_than_the_key_do_not(trusting, rebundle):
    result = rebundle("verify", SCOPE, "-o", "json")

    assert result.code == 5
    whole = {check["what"]: check["problem"] for check in result.json["checks"]}
    refused = {what: problem for what, problem in whole.items() if problem}
    assert sorted(what.split("@")[0] for what in refused) == [
        "state state-1",
        "state state-2",
        "state state-3",
    ]
    assert all("is not signed" in problem for problem in refused.values())
    assert [
        what.split("@")[0] for what in whole if what.startswith("state") and what not in refused
    ] == ["state state-3"], "republished with a signature"
    assert "freshness" in result.json["not_checked"][0]


def test_every_command_refuses_a_bucket_without_a_trusted_signature(policy, rebundle, monkeypatch):
    monkeypatch.setenv("REBUNDLE_TRUST__POLICY", str(policy))
    for command in (["show", SCOPE], ["states", SCOPE], ["hold", SCOPE, "--reason", "r"]):
        result = rebundle(*command)
        assert (result.code, "is not signed, as the trust policy requires" in result.err) == (
            5,
            True,
        ), command
        assert f"`rebundle republish {SCOPE} --reason 'first signature'`" in result.err


def test_recover_does_not_empty_a_scope_from_before_the_key_and_names_what_signs_it(
    policy, bucket, rebundle, monkeypatch
):
    monkeypatch.setenv("REBUNDLE_TRUST__POLICY", str(policy))
    path = bucket / str(SCOPE) / "pointer.json"
    before = path.read_bytes()

    for also in (["--dry-run"], ["--yes"]):
        result = rebundle("recover", SCOPE, "--reason", "not signed", *also)
        assert (result.code, path.read_bytes()) == (6, before)
        assert "--allow-empty" in result.err
        command = f"rebundle republish {SCOPE} --reason 'first signature'"
        assert f"`{command}`" in result.err

    monkeypatch.delenv("REBUNDLE_TRUST__POLICY")
    assert rebundle(*shlex.split(command)[1:]).code == 0
    monkeypatch.setenv("REBUNDLE_TRUST__POLICY", str(policy))
    assert rebundle("states", SCOPE).code == 0


def test_recover_writes_an_empty_pointer_where_an_operator_asks_for_it(
    policy, bucket, rebundle, monkeypatch
):
    monkeypatch.setenv("REBUNDLE_TRUST__POLICY", str(policy))
    result = rebundle("recover", SCOPE, "--reason", "r", "--yes", "--allow-empty", "-o", "json")
    assert (result.code, result.json["after"]["live"]) == (0, None)


def test_a_policy_without_a_state_file_is_refused(trusting, rebundle, monkeypatch):
    for variable in ("STATE_DIRECTORY", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    result = rebundle("verify", SCOPE)

    assert (result.code, "set trust.state_file" in result.err) == (5, True)


def test_without_a_key_no_signed_pointer_is_changed(trusting, bucket, rebundle, monkeypatch):
    monkeypatch.delenv("REBUNDLE_SIGNING__KEY_FILE")
    before = (bucket / str(SCOPE) / "pointer.json").read_bytes()
    result = rebundle("hold", SCOPE, "--reason", "r")

    assert (result.code, "signing.key_file" in result.err) == (5, True)
    assert (bucket / str(SCOPE) / "pointer.json").read_bytes() == before


def test_a_restored_older_pointer_is_refused_by_the_next_command_too(trusting, bucket, rebundle):
    pointer = bucket / str(SCOPE) / "pointer.json"
    old = pointer.read_bytes()
    assert rebundle("hold", SCOPE, "--reason", "r").code == 0
    pointer.write_bytes(old)
    shutil.rmtree(bucket / ".rebundle", ignore_errors=True)

    result = rebundle("show", SCOPE)

    assert result.code == 5
    assert "has sequence 4, and 5 was seen here before" in result.err


def test_a_seen_sequence_counts_for_one_bucket_under_any_name(
    trusting, bucket, rebundle, monkeypatch
):
    younger = shutil.copytree(bucket, bucket.parent / "elsewhere" / bucket.name)
    old = (bucket / str(SCOPE) / "pointer.json").read_bytes()
    assert rebundle("hold", SCOPE, "--reason", "r").code == 0
    (bucket / str(SCOPE) / "pointer.json").write_bytes(old)
    for folder in (bucket.parent, younger.parent):
        monkeypatch.chdir(folder)
        result = rebundle("show", SCOPE, "--bucket", bucket.name)
        assert ("was seen here before" in result.err) == (folder == bucket.parent), result.err
    assert rebundle("show", SCOPE, "--bucket", f"{bucket}/").code == 5
    assert rebundle("show", SCOPE, "--bucket", bucket.as_uri()).code == 5


@pytest.mark.parametrize("text", ["", "{}x", '{"schema": 9}', '{"keys": 1}'])
def test_a_policy_that_cannot_be_read_trusts_nothing(trusting, rebundle, text):
    trusting.write_text(text)
    result = rebundle("show", SCOPE)

    assert (result.code, "trust policy" in result.err) == (5, True)


@pytest.mark.parametrize("mode", [0o666, 0o664])
def test_a_policy_that_others_may_write_trusts_nothing(trusting, rebundle, mode):
    trusting.chmod(mode)
    result = rebundle("status")
    assert (result.code, "chmod go-w" in result.err) == (5, True)


def test_a_policy_in_a_folder_that_others_may_write_trusts_nothing(trusting, rebundle):
    trusting.parent.chmod(0o777)
    try:
        result = rebundle("status")
    finally:
        trusting.parent.chmod(0o700)
    assert (result.code, f"chmod go-w {trusting.parent}" in result.err) == (5, True)


def test_the_state_file_is_private_and_refused_where_others_may_write_it(
    trusting, rebundle, tmp_path
):
    rebundle("status")
    (kept,) = tmp_path.rglob("accepted.json")
    assert kept.stat().st_mode & 0o777 == 0o600
    kept.chmod(0o620)
    result = rebundle("status")
    assert (result.code, f"chmod go-w {kept}" in result.err) == (5, True)


def test_a_policy_is_written_readable_with_any_umask(rebundle, tmp_path, policy):
    written, before = tmp_path / "by a group.json", os.umask(0o002)
    try:
        assert rebundle("keys", "trust", written, tmp_path / "one.key.pub").code == 0
    finally:
        os.umask(before)
    assert written.stat().st_mode & 0o777 == 0o644


def test_a_missing_policy_trusts_nothing(trusting, rebundle):
    trusting.unlink()
    result = rebundle("show", SCOPE)

    assert (result.code, f"trust.policy: there is no file {trusting}" in result.err) == (2, True)


def test_a_revocation_reports_what_it_blocks_before_and_after(trusting, rebundle):
    (keyid,) = keyids(trusting)
    asked = rebundle(
        "keys", "revoke", trusting, keyid[:8], "--reason", "lost", "--dry-run", "-o", "json"
    )
    assert rebundle("show", SCOPE).code == 0
    done = rebundle("keys", "revoke", trusting, keyid[:8], "--reason", "lost", "-o", "json")

    whats = [blocked["what"].split("@")[0] for blocked in asked.json["blocked"]]
    assert whats[0] == "pointer"
    assert len(whats) == 2, "the pointer, and the one publication that it has signed"
    assert asked.json["blocked"] == done.json["blocked"]
    refused = rebundle("show", SCOPE)
    assert (refused.code, "was revoked at" in refused.err, "(lost)" in refused.err) == (
        5,
        True,
        True,
    )
    written = trusting.read_bytes()
    again = rebundle("keys", "revoke", trusting, keyid, "--reason", "again", "-o", "json")
    assert (again.code, again.json["blocked"], trusting.read_bytes()) == (
        0,
        done.json["blocked"],
        written,
    )
    assert rebundle("keys", "trust", trusting, trusting.with_name("one.key.pub")).code == 2


def test_a_key_can_be_revoked_in_any_state_of_the_bucket(trusting, bucket, rebundle, monkeypatch):
    """Otherwise the thief of a key could prevent its revocation."""
    (keyid,) = keyids(trusting)
    damaged = next((bucket / str(SCOPE) / "states").rglob("manifest.json"))
    damaged.write_bytes(damaged.read_bytes() + b" ")
    done = rebundle("keys", "revoke", trusting, keyid, "--reason", "stolen", "-o", "json")

    assert done.code == 0
    assert [key["keyid"] for key in json.loads(trusting.read_text())["revoked"]] == [keyid]
    assert [path["what"].split("@")[0] for path in done.json["unread"]] == [
        damaged.parent.parent.name
    ]
    assert "pointer" in [blocked["what"] for blocked in done.json["blocked"]]


def test_a_key_can_be_revoked_while_the_bucket_is_unreachable(trusting, rebundle, monkeypatch):
    (keyid,) = keyids(trusting)
    monkeypatch.setenv("REBUNDLE_BUCKET", "s3://away/x?endpoint=http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    asked = rebundle("keys", "revoke", trusting, keyid, "--reason", "stolen", "--dry-run")
    assert (asked.code, json.loads(trusting.read_text())["revoked"]) == (6, [])
    done = rebundle("keys", "revoke", trusting, keyid, "--reason", "stolen")

    assert (done.code, "unknown whether" in done.err) == (0, True)
    assert [key["keyid"] for key in json.loads(trusting.read_text())["revoked"]] == [keyid]


def test_a_very_short_prefix_names_no_key(trusting, rebundle):
    before = trusting.read_bytes()
    for start in ("", keyids(trusting)[0][:7]):
        refused = rebundle("keys", "revoke", trusting, start, "--reason", "r")
        assert (refused.code, "too short" in refused.err) == (2, True)
    assert trusting.read_bytes() == before


def test_a_policy_behind_a_link_stays_a_link_and_keeps_its_readers(trusting, rebundle, tmp_path):
    trusting.chmod(0o600)
    link = tmp_path / "link.json"
    link.symlink_to(trusting)
    assert (
        rebundle("keys", "trust", link, tmp_path / "one.key.pub", "--freshness", "required").code
        == 0
    )
    assert (link.is_symlink(), stat.S_IMODE(trusting.stat().st_mode)) == (True, 0o600)
    assert json.loads(trusting.read_text())["freshness"] == "required"


def test_a_policy_in_a_folder_that_others_may_write_is_not_made(rebundle, tmp_path, policy):
    """Otherwise a user who may write the folder could make root write through a link to any place."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "policy.json").symlink_to(shared / "nologin")
    shared.chmod(0o777)
    refused = rebundle("keys", "trust", shared / "policy.json", tmp_path / "one.key.pub")
    assert (refused.code, f"chmod go-w {shared}" in refused.err) == (2, True)
    assert [path.name for path in shared.iterdir()] == ["policy.json"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root acts in everybody's folders")
def test_root_changes_no_policy_that_another_user_may_replace(rebundle, tmp_path, policy):
    theirs, before = tmp_path / "theirs", policy.read_bytes()
    theirs.mkdir()
    (theirs / "policy.json").symlink_to(policy)
    os.chown(theirs, 12345, 12345)
    refused = rebundle(
        "keys", "trust", theirs / "policy.json", tmp_path / "one.key.pub", "--freshness", "required"
    )
    assert (refused.code, "belongs to another user" in refused.err) == (2, True)
    assert policy.read_bytes() == before


def test_a_signer_whose_policy_rejects_its_own_key_writes_nothing(
    trusting, bucket, rebundle, tmp_path, monkeypatch
):
    """Otherwise no reader with the policy could read the scope any more."""
    before = (bucket / str(SCOPE) / "pointer.json").read_bytes()
    assert rebundle("keys", "generate", tmp_path / "other.key").code == 0
    monkeypatch.setenv("REBUNDLE_SIGNING__KEY_FILE", str(tmp_path / "other.key"))
    unknown = rebundle("hold", SCOPE, "--reason", "r")
    assert (
        rebundle("keys", "trust", trusting, tmp_path / "other.key.pub", "--role", "publish").code
        == 0
    )
    publisher = rebundle("hold", SCOPE, "--reason", "r")
    assert (
        rebundle("keys", "trust", trusting, tmp_path / "other.key.pub", "--role", "pointer").code
        == 0
    )
    republished = rebundle("republish", SCOPE)
    asked = rebundle("republish", SCOPE, "--dry-run")

    assert (unknown.code, "is not in the trust policy" in unknown.err) == (5, True)
    assert (publisher.code, "may not sign as pointer" in publisher.err) == (5, True)
    for item in (republished, asked):
        assert (item.code, "may not sign as publish" in item.err) == (5, True)
    assert (bucket / str(SCOPE) / "pointer.json").read_bytes() == before
    assert rebundle("hold", SCOPE, "--reason", "r").code == 0


def test_a_daemon_whose_policy_rejects_its_key_does_not_start(
    trusting, rebundle, tmp_path, monkeypatch
):
    monkeypatch.setenv("REBUNDLE_JOURNAL__PATH", str(tmp_path / "journal.db"))
    # An address of no machine: a daemon that did start would end with 6.
    monkeypatch.setenv("REBUNDLE_HTTP__LISTEN", "192.0.2.1:1")
    monkeypatch.setenv("REBUNDLE_HTTP__TOKEN", "0123456789abcdef0123456789abcdef")
    assert (
        rebundle("keys", "trust", trusting, tmp_path / "one.key.pub", "--role", "publish").code == 0
    )
    no_role = rebundle("run")
    assert rebundle("keys", "trust", trusting, tmp_path / "one.key.pub").code == 0
    assert rebundle("keys", "revoke", trusting, keyids(trusting)[0], "--reason", "lost").code == 0
    revoked = rebundle("run")
    monkeypatch.delenv("REBUNDLE_SIGNING__KEY_FILE")
    no_key = rebundle("run")

    assert (no_role.code, "may not sign as pointer" in no_role.err) == (2, True)
    assert (revoked.code, "was revoked at" in revoked.err) == (2, True)
    assert (no_key.code, "there is no signing key" in no_key.err) == (2, True)


def test_keys_are_rotated_without_a_moment_in_which_readers_refuse(
    trusting, rebundle, tmp_path, monkeypatch
):
    old = keyids(trusting)[0]
    assert rebundle("keys", "rotate", trusting, old[:8], tmp_path / "two.key").code == 0
    assert rebundle("show", SCOPE).code == 0
    monkeypatch.setenv("REBUNDLE_SIGNING__SECOND_KEY_FILE", str(tmp_path / "two.key"))
    assert rebundle("republish", SCOPE).code == 0
    assert rebundle("show", SCOPE).code == 0
    monkeypatch.setenv("REBUNDLE_SIGNING__KEY_FILE", str(tmp_path / "two.key"))
    monkeypatch.delenv("REBUNDLE_SIGNING__SECOND_KEY_FILE")
    assert rebundle("hold", SCOPE, "--reason", "r").code == 0
    revoked = rebundle("keys", "revoke", trusting, old, "--reason", "exchanged", "-o", "json")

    assert len(revoked.json["blocked"]) == 1, "the publication that only the old key has signed"
    assert rebundle("show", SCOPE).code == 0


def test_a_key_counts_only_for_its_trusted_roles(policy, rebundle, tmp_path, monkeypatch):
    assert rebundle("republish", SCOPE).code == 0
    monkeypatch.setenv("REBUNDLE_TRUST__POLICY", str(policy))
    public = tmp_path / "one.key.pub"
    assert rebundle("keys", "trust", policy, public, "--role", "publish").code == 0
    assert "may not sign as pointer" in rebundle("show", SCOPE).err
    assert rebundle("keys", "trust", policy, public, "--scope", "other/*").code == 0
    assert f"for {SCOPE}" in rebundle("show", SCOPE).err
    assert rebundle("keys", "trust", policy, public, "--scope", f"{SCOPE.bundle}/*").code == 0
    assert rebundle("show", SCOPE).code == 0


def test_freshness_is_required_by_readers_and_not_by_signers(
    trusting, rebundle, tmp_path, monkeypatch
):
    public = tmp_path / "one.key.pub"
    assert rebundle("keys", "trust", trusting, public, "--freshness", "required").code == 0
    assert rebundle("show", SCOPE).code == 0
    monkeypatch.delenv("REBUNDLE_SIGNING__KEY_FILE")
    result = rebundle("show", SCOPE)

    assert (result.code, "has no freshness.json" in result.err) == (5, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["keys", "trust", "policy.json", "one.key"],
        ["keys", "trust", "policy.json", "."],
        ["keys", "generate", "absent/folder/key"],
    ],
)
def test_what_cannot_be_used_or_written_is_wrong_usage(policy, rebundle, arguments):
    assert rebundle(*arguments).code == 2


def test_a_key_that_the_policy_does_not_have_is_not_found(policy, rebundle):
    assert rebundle("keys", "revoke", policy, "zz" * 6, "--reason", "r").code == 3


# -- offline


@pytest.fixture
def copied(trusting, bucket, tmp_path) -> Path:
    """The signed publication, copied out of the bucket."""
    (found,) = (bucket / str(SCOPE) / "states").glob("*/*/manifest.dsse.json")
    return shutil.copytree(found.parent, tmp_path / "copied")


def test_a_copied_publication_is_verified_without_a_bucket(copied, rebundle, monkeypatch):
    monkeypatch.setenv("REBUNDLE_BUCKET", "s3://nobody-is-asked")
    result = rebundle("verify", "--offline", copied, "-o", "json")

    assert result.code == 0
    assert result.json["ok"]
    (unchecked,) = result.json["not_checked"]
    assert "whether the state is live" in unchecked


def test_without_a_policy_an_offline_check_reports_that_nothing_is_verified(
    copied, rebundle, monkeypatch
):
    monkeypatch.delenv("REBUNDLE_TRUST__POLICY")
    result = rebundle("verify", "--offline", copied, "-o", "json")

    assert result.code == 0
    assert "signatures" in result.json["not_checked"][0]


@pytest.mark.parametrize("name", ["bundle.tar.gz", "manifest.json", "manifest.dsse.json"])
def test_a_copy_with_a_changed_or_lost_file_fails(copied, rebundle, name):
    file = copied / name
    body = bytearray(file.read_bytes())
    body[len(body) // 2] ^= 1
    file.write_bytes(body)
    changed = rebundle("verify", "--offline", copied)
    file.unlink()
    lost = rebundle("verify", "--offline", copied)

    assert (changed.code, lost.code) == (5, 5)


def test_a_folder_that_is_no_publication_is_not_found_and_the_ones_below_it_are_named(
    copied, bucket, rebundle, tmp_path
):
    mistyped = rebundle("verify", "--offline", tmp_path / "nofolder")
    assert mistyped.code == 3
    assert f"{tmp_path / 'nofolder'} has no manifest.json: name a STATE/ATTEMPT folder" in (
        mistyped.err
    )
    attempt = next((bucket / str(SCOPE) / "states/state-1").iterdir())
    above = rebundle("verify", "--offline", bucket / str(SCOPE) / "states")
    assert (above.code, f"such as {attempt}" in above.err) == (3, True)


def test_status_reports_what_it_trusts_about_the_live_tree(trusting, rebundle, monkeypatch):
    assert "marked synced" in rebundle("status").out
    monkeypatch.delenv("REBUNDLE_TRUST__POLICY")
    assert "marked synced" not in rebundle("status").out


def test_an_unsigned_live_tree_is_compared_with_signed_documents(trusting, bucket, rebundle):
    """A marker with status `updating` excuses nothing: an attacker who can write the tree can write
    it, too.
    """
    tree = bucket / str(SCOPE) / "docker-compose-gen"
    (tree / "base/bundle/docker-compose.yaml").unlink()
    marker = tree / ".rebundle.json"
    marker.write_text(marker.read_text().replace('"synced"', '"updating"'))
    result = rebundle("verify", SCOPE, "live", "-o", "json")

    assert result.code == 5
    [problem] = [check["problem"] for check in result.json["checks"] if check["problem"]]
    assert problem.startswith(
        "these paths differ from live: base/bundle/docker-compose.yaml; tree and marker are not signed"
    )


def test_a_private_key_is_not_trusted_and_its_public_key_is_named(policy, rebundle, tmp_path):
    before = policy.read_bytes()

    result = rebundle("keys", "trust", policy, tmp_path / "one.key")

    assert (result.code, policy.read_bytes()) == (2, before)
    assert f"{tmp_path / 'one.key'} is a private key: give" in result.err
    assert f"{tmp_path / 'one.key.pub'}" in result.err


def test_a_file_that_is_no_key_is_named(policy, rebundle, tmp_path):
    (tmp_path / "text").write_text("no key")

    result = rebundle("keys", "trust", policy, tmp_path / "text")

    assert (result.code, f"{tmp_path / 'text'}: this is no public key" in result.err) == (2, True)
    absent = rebundle("keys", "trust", policy, tmp_path / "absent")
    assert (absent.code, f"there is no file {tmp_path / 'absent'}" in absent.err) == (3, True)


def test_a_key_id_that_matches_nothing_shows_the_keys_of_the_policy(policy, rebundle):
    result = rebundle("keys", "revoke", policy, "f" * 8, "--reason", "r")

    assert (result.code, keyids(policy)[0] in result.err) == (3, True)
    assert "is the beginning of no key of the trust policy; it has" in result.err


def test_a_policy_that_does_not_exist_is_a_mistake_in_the_settings(
    bucket, rebundle, monkeypatch, tmp_path
):
    monkeypatch.setenv("REBUNDLE_TRUST__POLICY", str(tmp_path / "absent.json"))

    result = rebundle("status")

    assert result.code == 2
    assert f"trust.policy: there is no file {tmp_path / 'absent.json'}" in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["trust", "policy.json", "absent.pub"],
        ["rotate", "absent.json", "x", "new.key"],
        ["revoke", "absent.json", "x", "--reason", "r"],
    ],
)
def test_a_file_that_does_not_exist_is_not_found(policy, rebundle, arguments):
    assert rebundle("keys", *arguments).code == 3
