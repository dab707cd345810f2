"""deploy/, checked without an engine or a running systemd: with their parsers, the build steps of
the image run by hand, and the script that makes tokens in every shell that may run it.
"""

import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from daemon.settings import Settings, SettingsError, load
from tests.services.availability import available, skip_or_fail
from tests.services.compose import Compose
from tests.services.tools import tool

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNPRIVILEGED = "65532:65532"
_LIMIT_SECONDS = 300


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False
    )


def settings_of(environ: dict[str, str]) -> Settings:
    return load({}, environ, None).settings


# The compose project


@pytest.fixture
def project(compose: Compose, tmp_path: Path) -> dict:
    # In another folder, so that a .env in deploy/ does not count.
    (tmp_path / "deploy").mkdir()
    shutil.copy(DEPLOY / "compose.yaml", tmp_path / "deploy")
    return compose.config(tmp_path / "deploy")["services"]


def test_each_service_runs_without_privileges_on_a_root_it_cannot_write(project: dict) -> None:
    for name, service in project.items():
        assert service["user"] == UNPRIVILEGED, name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_the_daemon_is_reached_from_this_host_only(project: dict) -> None:
    assert [port["host_ip"] for port in project["rebundle"]["ports"]] == ["127.0.0.1"]


def test_the_daemon_starts_only_when_its_tokens_are_made_and_cannot_change_them(
    project: dict,
) -> None:
    daemon = project["rebundle"]

    assert daemon["depends_on"]["tokens"]["condition"] == "service_completed_successfully"
    mounts = {mount["target"]: mount for mount in daemon["volumes"]}
    assert mounts["/etc/rebundle/tokens"]["read_only"] is True
    named = {value for key, value in daemon["environment"].items() if key.endswith("TOKEN_FILE")}
    assert named == {"/etc/rebundle/tokens/http-token", "/etc/rebundle/tokens/http-rollback-token"}


def test_the_daemon_has_time_to_drain_before_it_is_killed(project: dict) -> None:
    assert (
        float(project["rebundle"]["stop_grace_period"].removesuffix("s"))
        > settings_of({}).drain_seconds
    )


def test_the_daemon_uses_the_settings_of_the_project_and_of_the_image(
    project: dict, image: list[tuple[str, str]], tmp_path: Path
) -> None:
    given = environment_of(image) | project["rebundle"]["environment"]
    for name, path in given.items():
        if name.endswith("TOKEN_FILE"):
            token = tmp_path / Path(path).name
            token.write_text(f"{name}-0123456789abcdef")
            token.chmod(0o600)
            given[name] = str(token)

    settings = settings_of(given)

    assert settings.http.address == ("0.0.0.0", 8420)
    assert settings.bucket == "file:///var/lib/rebundle/bucket"
    assert settings.journal.path == Path("/var/lib/rebundle/journal.db")


# The tokens


def test_tokens_are_made_once_and_only_their_owner_reads_them(
    shell: tuple[str, ...], tmp_path: Path
) -> None:
    assert run(*shell, DEPLOY / "make-tokens", tmp_path).returncode == 0
    first = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert run(*shell, DEPLOY / "make-tokens", tmp_path).returncode == 0

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == first
    assert set(first) == {"http-token", "http-rollback-token"}
    assert all(re.fullmatch("[0-9a-f]{64}", token) for token in first.values())
    assert len(set(first.values())) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_a_token_that_an_operator_set_is_kept(shell: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "http-token").write_text("given-by-an-operator")

    assert run(*shell, DEPLOY / "make-tokens", tmp_path).returncode == 0

    assert (tmp_path / "http-token").read_text() == "given-by-an-operator"
    assert (tmp_path / "http-rollback-token").exists()


def test_a_folder_that_cannot_be_written_stops_the_start(
    shell: tuple[str, ...], tmp_path: Path
) -> None:
    assert run(*shell, DEPLOY / "make-tokens", tmp_path / "absent").returncode != 0


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_tokens_are_not_made_where_other_users_could_replace_them(
    shell: tuple[str, ...], tmp_path: Path, mode: int
) -> None:
    folder = tmp_path / "my tokens"
    folder.mkdir()
    folder.chmod(mode)

    result = run(*shell, DEPLOY / "make-tokens", folder)

    assert (result.returncode, list(folder.iterdir())) == (1, [])
    assert f"chmod go-w '{folder}'" in result.stderr


def test_a_link_in_the_place_of_a_new_file_is_not_followed(
    shell: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user guesses each name, or creates the link right after a name was chosen."""
    victim, folder, tools = tmp_path / "victim", tmp_path / "tokens", tmp_path / "tools"
    folder.mkdir(mode=0o700)
    tools.mkdir()
    (tools / "od").write_text("#!/bin/sh\necho known\n")
    (tools / "mktemp").write_text(
        f'#!/bin/sh\nln -s "{victim}" "{folder}/.new.chosen"; echo "{folder}/.new.chosen"\n'
    )
    for path in tools.iterdir():
        path.chmod(0o755)
    (folder / ".new.known").symlink_to(victim)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")

    assert run(*shell, DEPLOY / "make-tokens", folder).returncode != 0

    assert not victim.exists()


# The image


def instructions(containerfile: str) -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", containerfile))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


@pytest.fixture
def image() -> list[tuple[str, str]]:
    return instructions((DEPLOY / "Containerfile").read_text())


def test_the_image_names_its_bases_by_version_and_runs_as_a_number(
    image: list[tuple[str, str]],
) -> None:
    bases = [argument.split()[0] for word, argument in image if word == "FROM"]
    # A number, because an orchestrator cannot see whether a name is root.
    assert [argument for word, argument in image if word == "USER"] == [UNPRIVILEGED]
    assert all(
        re.fullmatch(r"docker\.io/library/python:3\.\d+-slim-[a-z]+", base) for base in bases
    )


def environment_of(image: list[tuple[str, str]]) -> dict[str, str]:
    """The variables of the last stage that are settings."""
    (pairs,) = [
        argument.split() for word, argument in image if word == "ENV" and "REBUNDLE_" in argument
    ]
    return {
        name: value
        for name, value in (pair.split("=", 1) for pair in pairs)
        if name.startswith("REBUNDLE_")
    }


def test_the_image_does_not_start_without_a_token(image: list[tuple[str, str]]) -> None:
    with pytest.raises(SettingsError, match="token"):
        settings_of(environment_of(image))


def test_files_that_the_image_copies_exist_and_are_not_ignored(
    image: list[tuple[str, str]],
) -> None:
    copied = [
        argument.split()[:-1]
        for word, argument in image
        if word == "COPY" and "--from" not in argument
    ]
    sources = {
        source for arguments in copied for source in arguments if not source.startswith("--")
    }
    kept = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }

    assert {source for source in sources if not (ROOT / source).exists()} == set()
    assert sources == kept


def test_an_engine_without_buildkit_can_build_the_image(image: list[tuple[str, str]]) -> None:
    """Debian's docker.io has no buildx, and its builder refuses these options."""
    options = {
        part.partition("=")[0]
        for word, argument in image
        if word in {"ADD", "COPY", "RUN", "FROM"}
        for part in argument.split()
        if re.match(r"--(chmod|link|mount|parents|exclude|checksum|network|security)\b", part)
    }
    assert options == set()
    assert {word for word, _ in image} <= {
        *("FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE"),
        *("STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"),
    }


@pytest.mark.slow
def test_the_build_steps_of_the_image_give_a_command_that_runs(
    image: list[tuple[str, str]], tmp_path: Path
) -> None:
    """The RUN lines unchanged, with the folders of the image below a temporary one and this
    machine's Python.
    """
    source = tmp_path / "src"
    source.mkdir()
    for name in ("events", "renderers", "daemon", "requirements"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    stage = image[: [word for word, _ in image].index("FROM", 1)]
    steps = [argument for word, argument in stage if word == "RUN" and "install -d" not in argument]
    # One shell, the build's own order, stopped by the first failure.
    script = "set -e\n" + "\n".join(
        re.sub(r"(?<![a-z.])/(?=build|opt|dist)", f"{tmp_path}/", step) for step in steps
    )
    script = script.replace("python -m venv", f"'{sys.executable}' -m venv")

    done = run("sh", "-c", script, cwd=source)
    if "NewConnectionError" in done.stderr:
        skip_or_fail("the package index cannot be reached from here")
    assert done.returncode == 0, done.stderr[-2000:]

    (wheel,) = (tmp_path / "dist").iterdir()
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {
        "daemon",
        "events",
        "renderers",
    }
    assert "renderers/templates/download.sh" in names
    home = tmp_path / "opt/rebundle"
    assert not list(home.glob("lib/python*/site-packages/pip"))
    assert list(home.glob("lib/python*/site-packages/daemon/__pycache__/*.pyc"))
    answer = run(home / "bin/rebundle", "--version", cwd=tmp_path)
    assert (answer.returncode, answer.stderr) == (0, "")


# The systemd unit


@pytest.fixture(scope="module")
def systemd_analyze() -> Path:
    return available(lambda: tool("systemd-analyze", package="systemd"))


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with a command that exists."""
    text = (DEPLOY / "rebundle.service").read_text()
    assert "ExecStart=/opt/rebundle/bin/rebundle run" in text
    copy = tmp_path / "rebundle.service"
    copy.write_text(text.replace("/opt/rebundle/bin/rebundle run", f"{shutil.which('true')} run"))
    return copy


def test_systemd_understands_every_line_of_the_unit(systemd_analyze: Path, unit: Path) -> None:
    done = run(systemd_analyze, "verify", "--man=no", unit)

    complaints = [line for line in done.stderr.splitlines() if "rebundle" in line]
    assert (done.returncode, complaints) == (0, [])


def test_the_unit_is_sandboxed_as_tightly_as_possible(systemd_analyze: Path, unit: Path) -> None:
    done = run(systemd_analyze, "security", "--offline=true", "--no-pager", unit)

    exposure = re.search(r"Overall exposure level for rebundle.service: ([0-9.]+)", done.stdout)
    assert exposure, done.stderr
    assert float(exposure[1]) <= 1.5


def test_the_unit_keeps_its_state_in_its_own_folder_and_takes_its_credentials(
    unit: Path, tmp_path: Path
) -> None:
    text = unit.read_text()
    for name in re.findall(r"(?m)^LoadCredential=([a-z-]+)", text):
        (tmp_path / name).write_text(f"{name}-0123456789abcdef")
        (tmp_path / name).chmod(0o440)
    given = dict(line.split("=", 1) for line in re.findall(r"(?m)^Environment=(.+)", text))

    settings = settings_of(given | {"CREDENTIALS_DIRECTORY": str(tmp_path)})

    assert settings.bucket == "file:///var/lib/rebundle/bucket"
    assert settings.journal.path == Path("/var/lib/rebundle/journal.db")
    assert settings.http.token.get_secret_value() == "http-token-0123456789abcdef"
    assert settings.http.rollback_token.get_secret_value() == "http-rollback-token-0123456789abcdef"
    assert float(re.search(r"(?m)^TimeoutStopSec=(\d+)s", text)[1]) > settings.drain_seconds


def test_nothing_that_the_daemon_imports_needs_memory_that_is_written_and_executed() -> None:
    """MemoryDenyWriteExecute= of the unit, through the kernel's own switch for it."""
    program = (
        "import ctypes, sys\n"
        "if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0): sys.exit(77)\n"
        "import boto3, cryptography.hazmat.bindings._rust, fastapi, google.cloud.storage, google_crc32c\n"
        "import pydantic, ruamel.yaml, sqlite3, ssl, uvicorn, yaml\n"
        "yaml.CSafeLoader, ssl.create_default_context(), sqlite3.connect(':memory:')\n"
    )
    done = run(sys.executable, "-W", "ignore", "-c", program)
    if done.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE")

    assert (done.returncode, done.stderr) == (0, "")
