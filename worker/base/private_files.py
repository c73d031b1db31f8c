"""Files that are written as a whole, and files and folders that only their owner can access."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EEXIST
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


def write_private_file(path: Path, data: bytes, *, replace: bool) -> None:
    """Write a file for its owner only, as `write_file` does."""
    write_file(path, data, replace=replace, mode=0o600)


def write_file(path: Path, data: bytes, *, replace: bool, mode: int = 0o644) -> None:
    """Write a file, complete or not at all.

    Raises FileExistsError if there is a file that must not be replaced, and other OSErrors.
    """
    with new_file(path, replace=replace, mode=mode) as partial:
        partial.write_bytes(data)


@contextmanager
def new_file(path: Path, *, replace: bool, mode: int) -> Iterator[Path]:
    """Yield an empty private file, which gets its name, flushed to disk, if the block ends well.

    Raises FileExistsError if there is a file that must not be replaced, and other OSErrors.
    """
    descriptor, name = tempfile.mkstemp(prefix=".valetkey-", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield partial
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        if replace:
            partial.replace(path)
        else:
            _rename_new(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # or the name may be lost with the machine's power
    finally:
        os.close(folder)


def _rename_new(partial: Path, path: Path) -> None:
    """Give a file a new name, unless another process has created a file of this name."""
    try:
        path.hardlink_to(partial)
    except FileExistsError:
        raise
    except OSError:  # some file systems have no links
        if path.exists():
            raise FileExistsError(EEXIST, os.strerror(EEXIST), str(path)) from None
        partial.replace(path)


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
