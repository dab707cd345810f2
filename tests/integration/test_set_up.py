"""`make setup` with old and new pips, against an index that has newer releases than the lock.

The Makefile and the installer are those of the project. The project, its lock and its index are
small ones made here.
"""

import base64
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.services.availability import available
from tests.services.environments import environment
from tests.services.processes import LOOPBACK, free_port
from tests.services.pythons import python

ROOT = Path(__file__).parents[2]
BUNDLED = "the pip that ensurepip brings"
LOCKED = {"probe": "1.0", "probe-plugin": "1.0", "probe-extra": "1.0"}
"""Like coverage and pytest-cov: the plug-in requires `probe[extra]`, and the lock has the extra's
package.
"""
REQUIRES = {
    "probe": ('probe-extra>=1 ; extra == "extra"',),
    "probe-plugin": ("probe[extra]>=1",),
    "probe-extra": (),
}
BACK_END = '''
"""Builds the project's wheel with the standard library, so that set-up needs no back end from the index."""

import zipfile


def build_wheel(folder, settings=None, metadata=None):
    name = "small_project-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.writestr("small_project-1.0.dist-info/METADATA",
                       "Metadata-Version: 2.1\\nName: small-project\\nVersion: 1.0\\nRequires-Dist: probe-plugin\\n")
        wheel.writestr("small_project-1.0.dist-info/WHEEL",
                       "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("small_project-1.0.dist-info/RECORD", "")
    return name


build_editable = build_wheel
'''
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "back_end"\nbackend-path = ["."]\n'


def make_wheel(index: Path, name: str, version: str) -> Path:
    """A wheel with metadata only, in the index's folder of its project."""
    stem = f"{name.replace('-', '_')}-{version}"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nProvides-Extra: extra\n"
    files = {
        "METADATA": metadata
        + "".join(f"Requires-Dist: {requirement}\n" for requirement in REQUIRES[name]),
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = (
        "".join(
            f"{stem}.dist-info/{file},sha256={_urlsafe(text)},{len(text)}\n"
            for file, text in files.items()
        )
        + f"{stem}.dist-info/RECORD,,\n"
    )
    folder = index / name
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as wheel:
        for file, text in (files | {"RECORD": record}).items():
            wheel.writestr(f"{stem}.dist-info/{file}", text)
    return made


def _urlsafe(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


class Quiet(SimpleHTTPRequestHandler):
    """Serves the listing of a folder as the page of a project (PEP 503), without a log."""

    def log_request(self, *arguments: object) -> None:
        """Nothing: the test's output has what pip reports."""

    log_error = log_request


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address and the folder of an index with two releases of each package."""
    folder = tmp_path_factory.mktemp("index")
    for name in LOCKED:
        for version in ("1.0", "1.1"):
            make_wheel(folder, name, version)
    with ThreadingHTTPServer((LOOPBACK, 0), functools.partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://{LOOPBACK}:{server.server_port}/", folder
        finally:
            server.shutdown()
            thread.join()


def make_lock(folder: Path, names: list[str]) -> str:
    """A lock of the first release of each package."""
    wheels = {
        name: folder / name / f"{name.replace('-', '_')}-1.0-py3-none-any.whl" for name in names
    }
    return "".join(
        f"{name}==1.0 \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
        for name, wheel in wheels.items()
    )


@pytest.fixture
def project(tmp_path: Path, index: tuple[str, Path]) -> Path:
    """A checkout with the project's own recipe for set-up and a small lock."""
    folder = tmp_path / "a check out"
    (folder / "requirements").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copy(ROOT / "requirements/install.py", folder / "requirements")
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "back_end.py").write_text(BACK_END)
    (folder / "requirements/dev.lock").write_text(make_lock(index[1], list(LOCKED)))
    return folder


def set_up(project: Path, interpreter: Path, address: str) -> subprocess.CompletedProcess[str]:
    """`make setup` without this machine's settings of pip and make."""
    environ = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("PIP_", "MAKE", "VIRTUAL_ENV"))
    }
    environ |= {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": address,
        "PIP_NO_CACHE_DIR": "1",
        "PIP_RETRIES": "0",
    }
    # A proxy of the machine must not get requests for loopback.
    environ |= {"no_proxy": LOOPBACK, "NO_PROXY": LOOPBACK}
    command = ["make", "setup", f"PYTHON={interpreter}"]
    return subprocess.run(
        command, cwd=project, env=environ, capture_output=True, text=True, timeout=300, check=False
    )


def installed(project: Path) -> dict[str, str]:
    """The packages in the environment except pip and setuptools, which come with Python."""
    found = (
        re.match(r"(.+)-([^-]+)\.dist-info$", path.name)
        for path in project.glob(".venv/lib/*/site-packages/*")
    )
    packages = {match[1].replace("_", "-"): match[2] for match in found if match}
    return {
        name: version for name, version in packages.items() if name not in {"pip", "setuptools"}
    }


def use_debians_pip(project: Path, interpreter: Path) -> None:
    """Makes the environment of the checkout with pip 23.0.1, which `make setup` then keeps."""
    subprocess.run(
        [interpreter, "-m", "venv", "--without-pip", project / ".venv"], check=True, timeout=120
    )
    (target,) = (project / ".venv").glob("lib/python*/site-packages")
    # pip 23 does not run on Python 3.12 and newer.
    for folder in available(lambda: environment("pip-23", interpreter)).glob(
        "lib/python*/site-packages/pip*"
    ):
        shutil.copytree(folder, target / folder.name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "pip"),
    [("3.11", "23.0.1"), ("3.11", BUNDLED), ("3.12", BUNDLED), ("3.13", BUNDLED)],
)
def test_set_up_installs_the_lock_although_newer_releases_exist(
    project: Path, index: tuple[str, Path], version: str, pip: str
) -> None:
    interpreter = available(lambda: python(version))
    if pip != BUNDLED:
        use_debians_pip(project, interpreter)

    done = set_up(project, interpreter, index[0])

    assert done.returncode == 0, done.stdout + done.stderr
    assert installed(project) == LOCKED | {"small-project": "1.0"}
    if pip != BUNDLED:
        assert list(project.glob(f".venv/lib/*/site-packages/pip-{pip}.dist-info"))


@pytest.fixture
def interpreter() -> Path:
    return available(lambda: python("{}.{}".format(*sys.version_info)))


@pytest.mark.slow
def test_a_lock_that_lacks_a_requirement_fails_the_set_up_with_a_remedy(
    project: Path, index: tuple[str, Path], interpreter: Path
) -> None:
    (project / "requirements/dev.lock").write_text(make_lock(index[1], ["probe-plugin"]))

    done = set_up(project, interpreter, index[0])

    assert done.returncode != 0
    assert "probe, which is not installed" in done.stderr
    assert "What to do:" in done.stderr
    assert "make lock" in done.stderr
    assert not list(project.glob(".venv/set-up-*"))


@pytest.mark.slow
def test_an_index_that_does_not_answer_fails_the_set_up_with_the_settings_to_look_at(
    project: Path, interpreter: Path
) -> None:
    done = set_up(project, interpreter, f"http://{LOOPBACK}:{free_port()}/")

    assert done.returncode != 0
    assert "PIP_INDEX_URL" in done.stderr
    assert not list(project.glob(".venv/set-up-*"))


@pytest.mark.slow
def test_each_step_of_set_up_is_reported(
    project: Path, index: tuple[str, Path], interpreter: Path
) -> None:
    done = set_up(project, interpreter, index[0])

    steps = [line.partition(" (")[0] for line in done.stdout.splitlines()]
    assert steps == [
        f"Making .venv with Python {platform.python_version()}",
        "Installing the packages of requirements/dev.lock",
        "  all 3 fetched, unpacking",
        "Installing this checkout as an editable package",
        "Checking that all requirements are installed",
        "Set-up is done: .venv/bin/rebundle --help",
    ]


@pytest.mark.parametrize(
    "file",
    ["Makefile", "requirements/install.py", "deploy/Containerfile", "deploy/rebundle.service"],
)
def test_no_recipe_of_the_project_lets_pip_resolve(file: str) -> None:
    text = (ROOT / file).read_text().replace("\\\n", "")
    commands = [
        line
        for line in text.splitlines()
        if re.search(r"\bpip\b.*\binstall |_pip\(\"install\"", line)
    ]

    assert [line for line in commands if "--no-deps" not in line] == []
