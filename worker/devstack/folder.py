"""The data folder: a lock that admits one stack at a time, and files with owner-only secrets."""

import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from worker.errors import WorkerError
from worker.private_files import create_private_folder, make_private, mode_of_others


class FolderUnusable(WorkerError):
    """The data folder cannot be used."""


class FolderInUse(FolderUnusable):
    """Another stack uses this data folder."""


class FolderNotPrivate(FolderUnusable):
    """Other accounts have access to this data folder."""


@dataclass(frozen=True, slots=True)
class StorageKeys:
    """The access key and secret key that the embedded storage accepts."""

    access_key: str
    secret_key: str = field(repr=False)


@contextmanager
def locked_folder(data: Path) -> Iterator[int]:
    """Create the folder if it does not exist, and lock it. Raises FolderUnusable.

    Removes other accounts' access to an existing folder.

    Yields the lock's file descriptor. Servers inherit it, so that the folder stays locked while one
    of them still writes to it, even if this process was killed.
    """
    create_private_folder(data)
    _make_folder_private(data)
    lock_fd = os.open(data / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(lock_fd, data)
        yield lock_fd
    finally:
        os.close(lock_fd)


def _make_folder_private(data: Path) -> None:
    if data.stat().st_uid != os.geteuid():
        raise FolderNotPrivate(
            f"{data} belongs to another account: choose a folder of your own with --data."
        )
    mode = mode_of_others(data)
    if mode is None:
        return
    contents = list(data.iterdir())
    # A folder with other contents may be shared on purpose. In a folder that others can write to,
    # they may have left files for us to trust.
    if contents and not (data / "lock").exists():
        raise FolderNotPrivate(
            f"Other accounts have access to {data} (mode {mode}), and it holds other files: choose "
            f"an empty folder with --data, or run `chmod 700 {data}`."
        )
    if any(path.lstat().st_uid != os.geteuid() for path in contents):
        raise FolderNotPrivate(
            f"Other accounts have access to {data} (mode {mode}), and have files in it: choose "
            "another folder with --data."
        )
    make_private(data)


def _lock(lock_fd: int, data: Path) -> None:
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FolderInUse(
            f"{data} is in use by another `python -m worker dev`, or by servers that kept running "
            "after such a command was killed. Stop those processes, or choose another folder with "
            "--data."
        ) from None


def storage_keys(data: Path) -> StorageKeys:
    """Return the keys of the folder's storage; generate them at the first start."""
    path = data / "credentials.json"
    if not path.exists():
        keys = StorageKeys(f"DEV{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30))
        write_private(path, json.dumps(asdict(keys)))
    return StorageKeys(**json.loads(path.read_text(encoding="utf-8")))


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, atomically."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="utf-8", delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)
