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


class FolderInUse(WorkerError):
    """Another stack uses this data folder."""


@dataclass(frozen=True, slots=True)
class StorageKeys:
    """The access key and secret key that the embedded storage accepts."""

    access_key: str
    secret_key: str = field(repr=False)


@contextmanager
def locked_folder(data: Path) -> Iterator[int]:
    """Create the folder if it does not exist, and lock it. Raises FolderInUse.

    Yields the lock's file descriptor. Servers inherit it, so that the folder stays locked while one
    of them still writes to it, even if this process was killed.
    """
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock_fd = os.open(data / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(lock_fd, data)
        yield lock_fd
    finally:
        os.close(lock_fd)


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
