"""Settings: precedence, origins, secrets, and every problem with its source."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.settings import Loaded, SettingProblem, SettingsError, load, schema
from renderers.composition import RenderDefaults
from renderers.values import Scope

SECRET = "correct-horse-battery-staple"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "rebundle.toml"
    path.write_text(text)
    return path


def problems(
    flags: dict[str, Any], environ: dict[str, str], file: Path | None = None
) -> list[SettingProblem]:
    with pytest.raises(SettingsError) as caught:
        load(flags, environ, file)
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return list(caught.value.problems)


def test_with_nothing_set_everything_is_below_var_and_on_loopback() -> None:
    settings = load({}, {}, None).settings
    assert settings.bucket == "var/bucket"
    assert settings.journal.path == Path("var/journal.db")
    assert settings.http.address == ("127.0.0.1", 8420)
    assert settings.http.max_body_bytes == 4 << 20
    assert settings.http.token is None
    assert settings.render == RenderDefaults()


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        'bucket = "file-b"\ndrain_seconds = 9\n[journal]\npath = "file-j"\n[log]\nlevel="debug"\n',
    )
    environ = {"REBUNDLE_BUCKET": "env-b", "REBUNDLE_JOURNAL__PATH": "env-j"}
    loaded = load({"bucket": "flag-b", "journal.path": None}, environ, file)
    assert (loaded.settings.bucket, str(loaded.settings.journal.path)) == ("flag-b", "env-j")
    assert (
        loaded.settings.drain_seconds,
        loaded.settings.log.level,
        loaded.settings.log.format,
    ) == (
        9,
        "debug",
        "auto",
    )
    assert [
        loaded.origin(name)
        for name in ("bucket", "journal.path", "drain_seconds", "log.level", "log.format")
    ] == [
        "flag --bucket",
        "environment REBUNDLE_JOURNAL__PATH",
        f"{file}:2",
        f"{file}:6",
        "default",
    ]


def test_a_file_is_only_read_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, 'bucket = "from the file"')
    monkeypatch.chdir(tmp_path)
    assert load({}, {}, None).settings.bucket == "var/bucket"


def test_render_defaults_can_be_set_from_every_source(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        '[render]\nrouter_image = "mirror.example/nginx:1"\nlabels.team = "vision"\n'
        '[render.resources]\nlimits = {cpus = 2, memory = "4g"}\n',
    )
    loaded = load({}, {"REBUNDLE_RENDER__LABELS__SITE": "north"}, file)
    render = loaded.settings.render
    assert (render.router_image, render.labels) == (
        "mirror.example/nginx:1",
        {"team": "vision", "site": "north"},
    )
    assert (render.resources.limits.cpus, render.resources.limits.memory) == ("2", 4 << 30)
    assert loaded.origin("render.labels.team") == f"{file}:3"
    assert loaded.origin("render.resources.limits.memory") == f"{file}:5"


SCOPED = """\
[render]
router_image = "mirror.example/nginx:1"
labels = {team = "vision", site = "south"}
registries."docker.io" = "mirror.example/hub"
[render.resources]
limits = {cpus = 2, memory = "4g"}
reservations.cpus = 1

[scopes."a/b".render]
restart = "always"
labels.site = "north"
registries."ghcr.io" = "mirror.example/ghcr"
resources.limits.memory = "8g"

[scopes."a/c"]
templates = "of-c"
"""


def test_settings_of_a_scope_are_merged_over_those_of_all_scopes(tmp_path: Path) -> None:
    settings = load({}, {}, written(tmp_path, SCOPED)).settings

    own = settings.render_for(Scope("a", "b"))

    assert (own.restart, own.router_image) == ("always", "mirror.example/nginx:1")
    assert own.labels == {"team": "vision", "site": "north"}
    assert own.registries == {"docker.io": "mirror.example/hub", "ghcr.io": "mirror.example/ghcr"}
    assert (own.resources.limits.cpus, own.resources.limits.memory) == ("2", 8 << 30)
    assert own.resources.reservations.cpus == "1"


@pytest.mark.parametrize("scope", [Scope("a", "c"), Scope("b", "a")])
def test_a_scope_without_settings_has_the_defaults_of_all_scopes(
    tmp_path: Path, scope: Scope
) -> None:
    settings = load({}, {"REBUNDLE_RENDER__RESTART": "no"}, written(tmp_path, SCOPED)).settings

    assert settings.render_for(scope) == settings.render
    assert settings.render_for(scope).restart == "no"


def test_a_default_set_in_a_scope_overrides_that_of_all_scopes(tmp_path: Path) -> None:
    file = written(
        tmp_path, '[render]\nrestart = "no"\n[scopes."a/b".render]\nrestart = "unless-stopped"\n'
    )

    assert load({}, {}, file).settings.render_for(Scope("a", "b")).restart == "unless-stopped"


def test_only_the_settings_given_in_a_scope_are_shown_with_their_lines(
    tmp_path: Path,
) -> None:
    file = written(tmp_path, SCOPED)

    shown = {
        name: origin
        for name, origin in load({}, {}, file).shown().items()
        if name.startswith("scopes")
    }

    assert shown == {
        "scopes.a/b.render.labels.site": ("north", f"{file}:11"),
        "scopes.a/b.render.registries.ghcr.io": ("mirror.example/ghcr", f"{file}:12"),
        "scopes.a/b.render.resources.limits.memory": (8 << 30, f"{file}:13"),
        "scopes.a/b.render.restart": ("always", f"{file}:10"),
        "scopes.a/c.templates": ("of-c", f"{file}:16"),
    }
    assert load({}, {}, None).shown()["scopes"] == ({}, "default")


@pytest.mark.parametrize(
    ("text", "setting", "line", "message"),
    [
        (
            '[scopes."a/B".render]\nrestart = "no"\n',
            "scopes.a/B",
            2,
            'must be named [scopes."BUNDLE/TARGET"]',
        ),
        ('[scopes."a/B"]\n', "scopes.a/B", 1, "must be named"),
        ('[scopes.a]\ntemplates = "x"\n', "scopes.a", 2, "must be named"),
        ('[scopes.a.b]\ntemplates = "x"\n', "scopes.a.b.templates", 2, "one name in quotes"),
        (
            '[scopes."a/b"]\nrendr.restart = "no"\n',
            "scopes.a/b.rendr.restart",
            2,
            "mean scopes.a/b.render.restart?",
        ),
        (
            '[scopes."a/b"]\nbucket = "x"\n',
            "scopes.a/b.bucket",
            2,
            "is not a setting; `rebundle config schema`",
        ),
        (
            '[scopes."a/b".render]\nrestart = "on-failure:0"\n',
            "scopes.a/b.render.restart",
            2,
            "'always'",
        ),
        (
            '[scopes."a/b".render.labels]\n"com.docker.x" = "v"\n',
            "scopes.a/b.render.labels.com.docker.x",
            2,
            "com.docker.",
        ),
        ('[scopes."a/b"]\nrender = "x"\n', "scopes.a/b.render", 2, "is a section"),
        ('[scopes]\n"a/b" = 1\n', "scopes.a/b", 2, "is a section"),
        ("scopes = 1\n", "scopes", 1, "is a section"),
        ("templates = 3\n", "templates", 1, "path"),
    ],
)
def test_a_faulty_setting_of_a_scope_is_reported_with_its_line(
    tmp_path: Path, text: str, setting: str, line: int, message: str
) -> None:
    file = written(tmp_path, text)
    (problem,) = problems({}, {}, file)
    assert (problem.setting, problem.source) == (setting, f"{file}:{line}")
    assert message in problem.message


@pytest.mark.parametrize("name", ["REBUNDLE_SCOPES__A_B__RENDER__RESTART", "REBUNDLE_SCOPES"])
def test_a_variable_that_names_a_scope_is_refused_with_where_scopes_are_set(name: str) -> None:
    (problem,) = problems({}, {name: "always"})
    assert problem.source == f"environment {name}"
    assert '[scopes."BUNDLE/TARGET"]' in problem.message


def test_a_section_of_a_scope_may_be_empty(tmp_path: Path) -> None:
    settings = load({}, {}, written(tmp_path, '[scopes."a/b"]\n[scopes."a/c".render]\n')).settings

    assert settings.render_for(Scope("a", "b")) == settings.render


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load({}, {"REBUNDLE_BUCKET": ""}, None).origin("bucket") == "default"


def test_all_problems_are_reported_at_once_with_their_sources(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        'bucket = "ftp://x/y"\n\n[http]\nlistn = "0.0.0.0:1"\nmax_body_bytes = true\n\n[render.resources.limit]\ncpus = 3\n',
    )
    found = problems(
        {"http.listen": "nowhere"},
        {"REBUNDLE_LOG__LEVEL": "loud", "REBUNDLE_BUKET": "x", "REBUNDLE_X__Y": "1"},
        file,
    )
    assert {(problem.setting, problem.source) for problem in found} == {
        ("bucket", f"{file}:1"),
        ("http.listn", f"{file}:4"),
        ("http.max_body_bytes", f"{file}:5"),
        ("render.resources.limit.cpus", f"{file}:8"),
        ("http.listen", "flag --listen"),
        ("log.level", "environment REBUNDLE_LOG__LEVEL"),
        ("buket", "environment REBUNDLE_BUKET"),
        ("x.y", "environment REBUNDLE_X__Y"),
    }
    messages = {problem.setting: problem.message for problem in found}
    assert "did you mean http.listen?" in messages["http.listn"]
    assert "did you mean bucket?" in messages["buket"]
    assert "did you mean render.resources.limits.cpus?" in messages["render.resources.limit.cpus"]
    assert "config schema" in messages["x.y"]
    assert '(found "loud")' in messages["log.level"]


def test_variables_that_kubernetes_or_a_test_sets_are_ignored() -> None:
    environ = {
        "REBUNDLE_PORT": "tcp://10.0.0.1:8420",
        "REBUNDLE_SERVICE_HOST": "10.0.0.1",
        "REBUNDLE_REQUIRE_SERVICES": "1",
    }
    assert load({}, environ, None).origins == {}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("bucket", "ftp://host/x", "s3://bucket/prefix"),
        ("bucket", "s3://key:secret@bucket/x", "no user"),
        ("bucket", "s3://bucket/x?versioning=1", "only endpoint and region"),
        ("bucket", "a\0b", "must be a directory"),
        ("bucket", "http://[::1", "must be a directory"),
        ("http.listen", "8420", "HOST:PORT"),
        ("http.listen", ":8420", "HOST:PORT"),
        ("http.listen", "host:", "HOST:PORT"),
        ("http.listen", "host:65536", "HOST:PORT"),
        ("http.listen", "::1:8420", "brackets"),
        ("http.max_body_bytes", "12 MegaLots", "byte"),
        ("http.max_body_bytes", "1", "1024"),
        ("http.body_seconds", "nan", "finite"),
        ("http.body_seconds", "0", "greater than 0"),
        ("http.body_seconds", "inf", "finite"),
        ("http.max_depth", "4000", "128"),
        ("log.format", "xml", "'json'"),
        ("drain_seconds", "soon", "number"),
        ("render.labels.com.docker.x", "v", "is not a setting"),
        ("render.download_image", "a b", "image reference"),
        ("http", "x", "is a section"),
    ],
)
def test_an_invalid_value_is_refused_in_plain_words(name: str, value: str, message: str) -> None:
    (problem,) = problems({name: value}, {})
    assert problem.setting == name
    assert message in problem.message
    assert "secret" not in problem.message


def test_contradicting_limits_are_reported_with_their_sources() -> None:
    (problem,) = problems({}, {"REBUNDLE_PUBLISH__RETRY_FIRST_SECONDS": "90"})
    assert problem.source == "environment REBUNDLE_PUBLISH__RETRY_FIRST_SECONDS"
    assert "retry_max_seconds" in problem.message


def test_sizes_are_written_with_units_or_without() -> None:
    loaded = load(
        {"http.max_body_bytes": "2MiB", "journal.max_unacknowledged_bytes": "2048"}, {}, None
    ).settings
    assert (loaded.http.max_body_bytes, loaded.journal.max_unacknowledged_bytes) == (2 << 20, 2048)


@pytest.mark.parametrize(
    ("listen", "address"), [("[::1]:1", ("::1", 1)), ("localhost:0", ("localhost", 0))]
)
def test_the_address_has_no_brackets(listen: str, address: tuple[str, int]) -> None:
    assert load({"http.listen": listen}, {}, None).settings.http.address == address


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"bucket = ", "is not TOML"),
        (b'bucket = "\xff"', "UTF-8"),
        (b"a = 1\na = 2", "is not TOML"),
    ],
)
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, body: bytes, message: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(body)
    (problem,) = problems({}, {}, path)
    assert problem.source == str(path)
    assert message in problem.message


def test_a_missing_file_does_not_hide_other_problems(tmp_path: Path) -> None:
    found = problems({"http.listen": "x"}, {}, tmp_path / "absent.toml")
    assert [problem.setting for problem in found] == ["", "http.listen"]
    assert "cannot be read" in found[0].message


def secret_of(loaded: Loaded) -> str | None:
    return loaded.settings.http.token.get_secret_value() if loaded.settings.http.token else None


def test_a_secret_is_read_from_its_file_before_the_environment_before_the_credentials(
    tmp_path: Path,
) -> None:
    for name, text in (
        ("http-token", "from-the-credentials-directory"),
        ("mounted", "from-the-mounted-file\n"),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o440)
    credentials = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    variable = credentials | {"REBUNDLE_HTTP__TOKEN": "from-the-environment"}
    mounted = variable | {"REBUNDLE_HTTP__TOKEN_FILE": str(tmp_path / "mounted")}
    assert secret_of(load({}, {}, None)) is None
    assert secret_of(load({}, credentials, None)) == "from-the-credentials-directory"
    assert load({}, credentials, None).settings.http.token_file == tmp_path / "http-token"
    assert load({}, credentials, None).origin("http.token") == "$CREDENTIALS_DIRECTORY/http-token"
    assert secret_of(load({}, variable, None)) == "from-the-environment"
    assert secret_of(load({}, mounted, None)) == "from-the-mounted-file"
    assert str(tmp_path / "mounted") in load({}, mounted, None).origin("http.token")


@pytest.mark.parametrize(
    ("mode", "usable"),
    [(0o600, True), (0o640, True), (0o440, True), (0o660, False), (0o644, False)],
)
def test_a_token_file_follows_the_rule_of_signing_keys(
    tmp_path: Path, mode: int, *, usable: bool
) -> None:
    file = tmp_path / "a token"
    file.write_text(SECRET)
    file.chmod(mode)
    flags = {"http.token_file": file}
    if usable:
        assert secret_of(load(flags, {}, None)) == SECRET
    else:
        (problem,) = problems(flags, {})
        assert problem.setting == "http.token"
        assert f"is open to others: chmod 600 '{file}'" in problem.message


def test_trusted_proxies_are_addresses_and_networks() -> None:
    given = {"REBUNDLE_HTTP__TRUSTED_PROXIES": "192.0.2.7, 2001:db8::/48"}
    assert list(map(str, load({}, given, None).settings.http.trusted_proxies)) == [
        "192.0.2.7/32",
        "2001:db8::/48",
    ]
    (problem,) = problems({}, {"REBUNDLE_HTTP__TRUSTED_PROXIES": "192.0.2.7/24"})
    assert "must be IP addresses or networks" in problem.message


def test_a_secret_is_never_shown(tmp_path: Path) -> None:
    loaded = load({}, {"REBUNDLE_HTTP__TOKEN": SECRET}, None)
    everything = [
        repr(loaded),
        repr(loaded.settings),
        str(loaded.shown()),
        loaded.settings.model_dump_json(),
    ]
    assert not [text for text in everything if SECRET in text]
    assert loaded.shown()["http.token"] == ("**********", "environment REBUNDLE_HTTP__TOKEN")


@pytest.mark.parametrize(
    "secret",
    ["short", "with white space in it", "mit-ümläuten-und-mehr", "control\x07-character-in-it"],
)
def test_an_invalid_token_secret_is_refused_without_showing_it(secret: str) -> None:
    (problem,) = problems({}, {"REBUNDLE_HTTP__TOKEN": secret})
    assert problem.setting == "http.token"
    assert "openssl rand" in problem.message
    assert secret not in str(problem)


def test_a_secret_in_a_flag_or_the_file_is_refused_without_showing_it(tmp_path: Path) -> None:
    file = written(tmp_path, f'[http]\ntoken = "{SECRET}"\n')
    found = problems({"http.rollback_token": SECRET}, {}, file)
    assert [(problem.setting, problem.source) for problem in found] == [
        ("http.token", f"{file}:2"),
        ("http.rollback_token", "flag --http.rollback_token"),
    ]
    assert SECRET not in "".join(map(str, found))
    assert "token_file" in found[0].message


@pytest.mark.parametrize("kind", ["absent", "empty", "directory", "binary", "huge"])
def test_an_unusable_secrets_file_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "token"
    match kind:
        case "directory":
            path.mkdir()
        case "absent":
            pass
        case _:
            path.write_bytes({"empty": b"\n", "binary": b"\xff" * 32, "huge": b"x" * 5000}[kind])
            path.chmod(0o600)
    (problem,) = problems({"http.token_file": path}, {})
    assert problem.setting == "http.token"
    assert str(path) in problem.source


def test_an_address_that_others_reach_needs_a_token() -> None:
    (problem,) = problems({"http.listen": "0.0.0.0:8420"}, {})
    assert "http.token_file" in problem.message
    assert load(
        {"http.listen": "0.0.0.0:8420"}, {"REBUNDLE_HTTP__TOKEN": SECRET}, None
    ).settings.http.token


def test_a_command_that_needs_no_secret_does_not_require_one(tmp_path: Path) -> None:
    flags = {"http.token_file": tmp_path / "unreadable", "http.listen": "0.0.0.0:8420"}
    assert len(problems(flags, {})) == 2
    loaded = load(flags, {"REBUNDLE_HTTP__TOKEN": SECRET}, None, secrets=False)
    assert secret_of(loaded) is None
    assert loaded.settings.http.address == ("0.0.0.0", 8420)


def test_the_two_roles_need_different_tokens() -> None:
    (problem,) = problems(
        {}, {"REBUNDLE_HTTP__TOKEN": SECRET, "REBUNDLE_HTTP__ROLLBACK_TOKEN": SECRET}
    )
    assert problem.setting == "http.rollback_token"
    assert SECRET not in str(problem)


def _keys(value: object) -> Iterator[str]:
    """Every key of a JSON document."""
    if isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from _keys(item)
    elif isinstance(value, list):
        for item in value:
            yield from _keys(item)


def test_the_schema_has_the_limits_of_numbers_in_the_words_of_json_schema() -> None:
    described = schema()
    models = described["$defs"]["BundleLimits"]["properties"]["models"]

    assert not {"ge", "le", "gt", "lt"} & set(_keys(described))
    assert (models["minimum"], models["maximum"]) == (1, 10_000)


def test_the_schema_describes_the_file_and_offers_no_place_for_a_secret() -> None:
    described = schema()
    text = json.dumps(described)
    assert "token_file" in text
    assert "token" not in described["$defs"]["HttpSettings"]["properties"]
    assert described["properties"]["bucket"]["description"]
    assert described["additionalProperties"] is False


def test_settings_are_frozen() -> None:
    settings = load({}, {}, None).settings
    with pytest.raises(ValueError, match="frozen"):
        settings.http.listen = "0.0.0.0:1"  # type: ignore[misc]  # this is tested


def test_importing_settings_loads_no_sdk_and_no_web_framework() -> None:
    code = "import sys, daemon.settings; print([m for m in ('boto3','google','aiokafka','fastapi','starlette','uvicorn') if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ},
    )
    assert out.stdout == "[]\n"


def test_limits_come_from_every_source_and_are_shown_like_any_setting(tmp_path: Path) -> None:
    loaded = load(
        {}, {"REBUNDLE_LIMITS__MODELS": "50"}, written(tmp_path, "[limits]\nsignature_depth = 3\n")
    )
    assert (loaded.settings.limits.models, loaded.settings.limits.signature_depth) == (50, 3)
    assert loaded.origin("limits.models") == "environment REBUNDLE_LIMITS__MODELS"

    (file := tmp_path / "other.toml").write_text("[limits]\nmodels = true\nmodles = 3\nfiles = 0\n")
    found = problems({}, {}, file)
    assert {(problem.setting, problem.source) for problem in found} == {
        ("limits.models", f"{file}:2"),
        ("limits.modles", f"{file}:3"),
        ("limits.files", f"{file}:4"),
    }


@pytest.mark.parametrize("text", ['templates = ""\n', '[scopes."a/b"]\ntemplates = ""\n'])
def test_an_empty_path_of_templates_is_not_a_directory(tmp_path, text):
    file = tmp_path / "rebundle.toml"
    file.write_text(text)

    with pytest.raises(SettingsError, match="must name a directory"):
        load({}, {}, file)


def test_each_problem_of_a_file_is_in_plain_words_and_in_the_order_of_the_lines(
    tmp_path: Path,
) -> None:
    file = tmp_path / "rebundle.toml"
    file.write_text(
        "drain_seconds = 'soon'\n"
        "[publish]\n"
        "accept_older_renderer = 'maybe'\n"
        "pinning = 'some'\n"
        "[http]\n"
        "nonsense = 1\n"
        "listen = 8420\n"
        "max_depth = 'x'\n"
        "max_requests = 0\n"
        "max_body_bytes = 'much'\n"
    )
    with pytest.raises(SettingsError) as raised:
        load({}, {}, file)
    assert [line.removeprefix(f"{file}:") for line in str(raised.value).splitlines()] == [
        '1: drain_seconds: must be a number (found "soon")',
        '3: publish.accept_older_renderer: must be true or false (found "maybe")',
        "4: publish.pinning: must be 'off', 'warn' or 'require' (found \"some\")",
        "6: http.nonsense: is not a setting; `rebundle config schema` lists them",
        "7: http.listen: must be text in quotes (found 8420)",
        '8: http.max_depth: must be a whole number (found "x")',
        "9: http.max_requests: must be at least 1 (found 0)",
        '10: http.max_body_bytes: must be a number of bytes, such as 4194304 or 4MiB (found "much")',
    ]
