"""Finds the Python interpreters of this machine: those on the path and those of pyenv."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.services.availability import NotGiven


def python(version: str) -> Path:
    """The interpreter of a version such as "3.12" that can make virtual environments.

    Raises NotGiven.
    """
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [
        found for folder in os.get_exec_path() if (found := shutil.which(name, path=folder))
    ]
    candidates += sorted(map(str, pyenv.glob(f"versions/{version}.*/bin/{name}")))
    for candidate in candidates:
        # pyenv puts a script on the path even for a version that is not in use; calling it fails.
        probe = [candidate, "-c", "import ensurepip, sys, venv; print(sys.executable)"]
        done = subprocess.run(probe, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 0:
            return Path(done.stdout.strip())
    raise NotGiven(f"{name} with its venv module is neither on the path nor below {pyenv}")
