"""Files that are written as a whole, and files and folders that only their owner can access."""

import os
import stat
from contextlib import suppress
from pathlib import Path

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def create_private_folder(path: Path) -> None:
    """Create a folder and its missing parents, each for its owner only.

    Leaves existing folders as they are.
    """
    # The mode that Path.mkdir gets does not apply to the parents that it creates.
    for folder in reversed((path, *path.parents)):
        folder.mkdir(exist_ok=True, mode=0o700)


def create_private_file(path: Path) -> None:
    """Create an empty file for its owner only, unless the path exists or cannot be created."""
    # Without opening an existing file: closing it would release SQLite's locks in this process.
    with suppress(OSError):
        path.touch(mode=0o600, exist_ok=False)


def mode_of_others(path: Path) -> str | None:
    """Return the file's mode, like 0644, if accounts besides its owner have access, else None.

    A group may read what root owns, unless root runs this: Kubernetes and systemd provide secrets
    like that. Returns None if there is no such file.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    mode = stat.S_IMODE(status.st_mode)
    is_provided = status.st_uid == 0 and os.geteuid() != 0
    allowed = stat.S_IRGRP if is_provided else 0
    return f"{mode:04o}" if mode & _OTHERS & ~allowed else None


def make_private(path: Path) -> None:
    """Remove the access of all accounts except the owner. Raises OSError."""
    path.chmod(stat.S_IMODE(path.stat().st_mode) & ~_OTHERS)
