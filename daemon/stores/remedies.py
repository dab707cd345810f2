"""Shell commands for messages to operators. Every argument is quoted; no file is opened. Pure.

The commands move an object that is in the way to `.rebundle/aside/` of the bucket. No scope lists
that folder and no host copies it, whereas a file renamed within a live tree would be copied. Each
command uses a new subfolder, so that nothing is overwritten.
"""

import shlex
from pathlib import Path
from typing import Final

from daemon.stores.locations import S3, Directory, Gcs, Location, place

ASIDE: Final = ".rebundle/aside"


def move_object(location: Location, key: str) -> str:
    """Return the command that moves an object out of the scopes of its bucket."""
    match location:
        case Directory(path=root):
            return move_file(root.absolute(), root.absolute() / key)
        case S3(endpoint=endpoint, region=region):
            options = (("--endpoint-url", endpoint), ("--region", region))
            flags = "".join(f" {name} {shlex.quote(value)}" for name, value in options if value)
            return f"aws s3 mv {_from_and_to(location, key)}{flags}"
        case Gcs():
            return f"gcloud storage mv {_from_and_to(location, key)}"


def move_file(root: Path, path: Path) -> str:
    """Return the command that moves a file or folder out of the scopes of a directory store.

    A path outside the root, or in `.rebundle/`, is in no scope: it is renamed in its folder.
    """
    quoted = shlex.quote(str(path))
    if root not in path.parents or root / ".rebundle" in (path, *path.parents):
        return f"mv {quoted} {shlex.quote(f'{path}.aside')}"
    aside = shlex.quote(str(root / ASIDE))
    return f'mkdir -p {aside} && mv {quoted} "$(mktemp -d {aside}/XXXXXX)"'


def _from_and_to(location: Location, key: str) -> str:
    aside = shlex.quote(f"{place(location, ASIDE)}/")
    return f"{shlex.quote(place(location, key))} {aside}$(date +%s)/{shlex.quote(key)}"
