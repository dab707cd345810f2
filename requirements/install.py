"""Installs a complete lock into the environment of this Python, without a resolver (ADR 16).

    .venv/bin/python requirements/install.py requirements/dev.lock --editable .

A lock names every package with its version and hashes, so nothing is left to resolve. `pip check`
then proves that the lock is complete. Needs the standard library and any pip since 23.0.
"""

import argparse
import re
import subprocess
import sys
from collections import deque
from pathlib import Path

_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
_SHOW_EACH = 25
"""Packages between two lines of progress."""
_LINES_KEPT = 30
"""Lines of pip's output that a failure shows."""

_REMEDIES = {
    r"ConnectionError|ConnectTimeout|Retrying|ProxyError|SSLError|certificate|Temporary "
    r"failure|timed out": (
        "pip cannot reach its index. Look at its settings with: {pip} config list\n"
        "Then set PIP_INDEX_URL (a mirror), HTTPS_PROXY, PIP_CERT (a company's certificate) "
        "or PIP_FIND_LINKS (a folder of wheels)."
    ),
    r"DO NOT MATCH THE HASHES": (
        "The index serves another file than the one that was locked. Clear pip's cache: {pip} "
        "cache purge\n"
        "If that does not help, use another index (PIP_INDEX_URL)."
    ),
    r"No matching distribution|Could not find a version|Failed building|Failed to "
    r"build|metadata-generation-failed": (
        "The index has no wheel of that version for Python {python}. Use another index "
        "(PIP_INDEX_URL), "
        "or a Python from 3.11 to 3.13: make setup PYTHON=python3.13"
    ),
    r"No space left": "The disk is full: free some space, then try again.",
    r"which is not installed|has requirement|not supported on this platform": (
        "The environment may be older than the lock. Remove it, then try again: rm -r "
        "'{environment}'\n"
        "If that does not help, the lock does not fit pyproject.toml. Resolve it again: make lock"
    ),
}
_UNKNOWN = "The environment may be half-made. Remove it, then try again: rm -r '{environment}'"


class InstallationFailed(Exception):
    """pip ended with an error; the text has its last lines."""


def install(lock: Path, editable: Path | None) -> None:
    """Installs exactly what `lock` names, then the project in `editable`.

    Raises:
        InstallationFailed: pip ended with an error.
    """
    packages = len(re.findall(r"(?m)^[\w.-]+(?:\[.*\])?==", lock.read_text()))
    # Without their number: the lock also names packages of other platforms, which pip leaves out.
    print(f"Installing the packages of {lock} ({_duration(packages)})", flush=True)
    _pip("install", "--no-deps", "--require-hashes", "--requirement", str(lock))
    if editable:
        print("Installing this checkout as an editable package (a few seconds)", flush=True)
        # An isolated build would fetch a back end that no lock names.
        _pip("install", "--no-deps", "--no-build-isolation", "--editable", str(editable))
    print("Checking that all requirements are installed", flush=True)
    _pip("check")


def _duration(packages: int) -> str:
    return "about a minute, less when they are cached" if packages > _SHOW_EACH else "a few seconds"


def _pip(*arguments: str) -> None:
    """Runs pip and shows how far it is. Raises InstallationFailed."""
    lines: deque[str] = deque(maxlen=_LINES_KEPT)
    collected = 0
    with subprocess.Popen(
        [*_PIP, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            lines.append(line.rstrip())
            collected += line.startswith("Collecting ")
            if line.startswith("Collecting ") and collected % _SHOW_EACH == 0:
                print(f"  {collected} fetched", flush=True)
            elif collected and line.startswith("Installing collected packages"):
                print(f"  all {collected} fetched, unpacking", flush=True)
            elif line.startswith("WARNING: Retrying"):
                print(f"  {line.strip()}", flush=True)
    if process.returncode:
        raise InstallationFailed("\n".join(lines))


def _remedy(output: str) -> str:
    """What to do about pip's last lines."""
    known = [remedy for pattern, remedy in _REMEDIES.items() if re.search(pattern, output)]
    return (known or [_UNKNOWN])[0].format(
        pip=f"'{sys.executable}' -m pip",
        python=".".join(map(str, sys.version_info[:2])),
        environment=sys.prefix,
    )


def main() -> int:
    """The exit code: 0, or 1 with pip's last lines and what to do about them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "lock", type=Path, help="a requirements file with a version and hashes for every package"
    )
    parser.add_argument(
        "--editable", type=Path, help="the folder of the project to install afterwards"
    )
    options = parser.parse_args()
    try:
        install(options.lock, options.editable)
    except InstallationFailed as error:
        print(
            f"Installing {options.lock} failed. The last lines of pip:\n{error}\n", file=sys.stderr
        )
        print(f"What to do: {_remedy(str(error))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
