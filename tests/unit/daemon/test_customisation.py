"""Directories of templates: which files count, in which order, and the errors for unusable ones."""

import os
from pathlib import Path

import pytest

from daemon.customisation import for_every_scope, for_scope
from daemon.settings import ScopeSettings, Settings, SettingsError
from renderers.bundle import Customisation
from renderers.composition import RenderDefaults
from renderers.template_set import Templates
from renderers.values import Scope

SCOPE, OTHER = Scope("a", "b"), Scope("a", "c")


def folder(tmp_path: Path, name: str, **files: str) -> Path:
    made = tmp_path / name
    made.mkdir()
    for file, text in files.items():
        (made / file.replace("_dot_", ".")).write_text(text)
    return made


def settings(shared: Path | None = None, own: Path | None = None) -> Settings:
    return Settings(templates=shared, scopes={str(SCOPE): ScopeSettings(templates=own)})


def problems(given: Settings) -> list[tuple[str, str, str]]:
    with pytest.raises(SettingsError) as caught:
        for_every_scope(given)
    return [(problem.setting, problem.source, problem.message) for problem in caught.value.problems]


def test_without_settings_every_scope_has_the_built_in_templates_and_defaults() -> None:
    brought = for_every_scope(Settings())

    assert brought.of(SCOPE) == Customisation() == for_scope(Settings(), SCOPE)
    assert brought.replaced == {}


def test_templates_of_a_scope_override_those_of_all_scopes_and_the_built_in_ones(
    tmp_path: Path,
) -> None:
    shared = folder(tmp_path, "shared", models_dot_txt="all\n", models_dot_map="all\n")
    given = settings(shared, folder(tmp_path, "own", models_dot_map="own\n"))

    own, other = (for_scope(given, scope).templates for scope in (SCOPE, OTHER))

    assert [own.text(name) for name in ("models.txt", "models.map")] == ["all\n", "own\n"]
    assert [other.text(name) for name in ("models.txt", "models.map")] == ["all\n", "all\n"]
    assert own.text("gcs.json") == Templates.built_in().text("gcs.json")


def test_the_settings_of_other_scopes_do_not_affect_a_scope(tmp_path: Path) -> None:
    shared = folder(tmp_path, "shared", header_dot_yaml="# All.\nservices:\n")
    given = settings(shared, folder(tmp_path, "own", header_dot_yaml="# Own.\nservices:\n"))

    brought = for_every_scope(given)

    assert [brought.of(scope) for scope in (SCOPE, OTHER)] == [
        for_scope(given, scope) for scope in (SCOPE, OTHER)
    ]
    assert brought.of(SCOPE) != brought.of(OTHER)
    assert brought.replaced == {"*": ["header.yaml"], str(SCOPE): ["header.yaml"]}


def test_the_defaults_of_a_scope_apply_only_to_it() -> None:
    given = Settings(scopes={str(SCOPE): ScopeSettings(render=RenderDefaults(restart="always"))})

    brought = for_every_scope(given)

    assert (brought.of(SCOPE).defaults.restart, brought.of(OTHER).defaults.restart) == (
        "always",
        "unless-stopped",
    )


def test_a_mounted_config_map_can_be_read(tmp_path: Path) -> None:
    mounted = folder(tmp_path, "mounted")
    data = folder(mounted, "..2026_11_23", models_dot_map="mine\n")
    (mounted / "..data").symlink_to(data.name)
    (mounted / "models.map").symlink_to("..data/models.map")

    assert for_scope(settings(mounted), SCOPE).templates.text("models.map") == "mine\n"


def test_a_file_whose_name_begins_with_a_dot_is_not_a_template(tmp_path: Path) -> None:
    assert (
        for_every_scope(
            settings(folder(tmp_path, "own", _dot_models_dot_map_dot_swp="\0"))
        ).replaced
        == {}
    )


def test_every_problem_of_every_directory_is_reported_at_once_with_its_place(
    tmp_path: Path,
) -> None:
    shared = folder(
        tmp_path, "shared", modles_dot_map="x\n", router_dot_yaml="services:\n{% if %}\n"
    )
    own = folder(tmp_path, "own", models_dot_map="x\n{{ id | shell }}\n")

    assert problems(settings(shared, own)) == [
        (
            "templates",
            f"{shared}/modles.map:1",
            "is not the name of a template; did you mean models.map?",
        ),
        (
            "templates",
            f"{shared}/router.yaml:2",
            "Expected an expression, got 'end of statement block'",
        ),
        ("scopes.a/b.templates", f"{own}/models.map:2", "No filter named 'shell'."),
    ]


def test_one_scope_can_be_loaded_although_the_templates_of_another_are_faulty(
    tmp_path: Path,
) -> None:
    given = settings(None, folder(tmp_path, "own", models_dot_map="{% if %}"))

    assert for_scope(given, OTHER) == Customisation()
    with pytest.raises(SettingsError, match=r"models\.map:1"):
        for_scope(given, SCOPE)


@pytest.mark.parametrize(
    ("body", "line", "expected"),
    [
        (b"one\n\xff\n", 2, "is not UTF-8"),
        (b"one\ntwo\r\n", 2, "carriage return"),
        (b"one\0\n", 1, "NUL"),
        (b"\xef\xbb\xbfone\n", 1, "byte order mark"),
        (b"x" * (256 * 1024 + 1), 1, "more than 262144 bytes"),
    ],
    ids=["not utf-8", "carriage return", "nul", "byte order mark", "too long"],
)
def test_an_invalid_template_is_refused_with_its_line(
    tmp_path: Path, body: bytes, line: int, expected: str
) -> None:
    directory = folder(tmp_path, "own")
    (directory / "models.map").write_bytes(body)

    ((_, source, message),) = problems(settings(directory))

    assert source == f"{directory}/models.map:{line}"
    assert expected in message


def test_a_text_of_exactly_the_largest_size_is_read(tmp_path: Path) -> None:
    text = "x" * 256 * 1024

    assert (
        for_scope(settings(folder(tmp_path, "own", gcs_dot_json=text)), SCOPE).templates.text(
            "gcs.json"
        )
        == text
    )


@pytest.mark.parametrize("kind", ["folder", "dangling link", "pipe"])
def test_a_special_file_is_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    directory = folder(tmp_path, "own")
    path = directory / "models.map"
    match kind:
        case "folder":
            path.mkdir()
        case "dangling link":
            path.symlink_to("nowhere")
        case _:
            os.mkfifo(path)

    ((_, source, message),) = problems(settings(directory))

    assert source == f"{path}:1"
    assert "is not a file" in message


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    directory = folder(tmp_path, "own")
    # A regular file whose first bytes cannot be read, not even by root: no page is mapped there.
    (directory / "models.map").symlink_to("/proc/self/mem")

    ((_, _, message),) = problems(settings(directory))

    assert message == "cannot be read (Input/output error)"


@pytest.mark.parametrize("kind", ["absent", "file", "NUL in its name"])
def test_a_directory_that_cannot_be_read_is_named_with_its_setting(
    tmp_path: Path, kind: str
) -> None:
    path = {"absent": tmp_path / "no", "file": tmp_path / "file", "NUL in its name": Path("a\0b")}[
        kind
    ]
    (tmp_path / "file").touch()

    ((setting, source, message),) = problems(settings(None, path))

    assert (setting, source) == ("scopes.a/b.templates", str(path.absolute()))
    assert message.startswith("cannot be read as a directory (")


def test_a_self_test_failure_is_reported_once_with_the_scopes_it_affects(tmp_path: Path) -> None:
    shared = folder(tmp_path, "shared", models_dot_map="{{ nothing }}\n")
    own = folder(tmp_path, "own", models_dot_map="{{ id | nginx_key }} s{{ id }}s:1;\n")

    for_all = problems(settings(shared))
    for_both = problems(settings(shared, own))

    assert for_all == [
        ("", "template self-test for every scope", "template models.map:1: 'nothing' is undefined")
    ]
    assert [source for _, source, _ in for_both] == [
        "template self-test for every scope",
        "template self-test for a/b",
    ]
    assert "base/bundle/nginx/models.map:1: expected" in for_both[1][2]
