"""The data folder: one stack at a time, and its secrets in files that only their owner reads."""

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
    """Another stack runs on this data folder."""


@dataclass(frozen=True, slots=True)
class StorageKeys:
    """What the embedded storage accepts signatures of."""

    access_key: str
    secret_key: str = field(repr=False)


@contextmanager
def locked_folder(data: Path) -> Iterator[int]:
    """Have the folder to ourselves, making it where there is none. Raises InUse.

    Yields the lock's file descriptor. Servers inherit it, so that the folder stays closed for as
    long as one of them still writes there, even when we were killed.
    """
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(data / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _take(lock, data)
        yield lock
    finally:
        os.close(lock)


def _take(lock: int, data: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FolderInUse(
            f"{data} is in use by another `python -m worker dev`, or by servers that one left "
            "behind when it was killed: stop those, or give another folder with --data."
        ) from None


def storage_keys(data: Path) -> StorageKeys:
    """Read the keys of the folder's storage, which are made up at the first start."""
    path = data / "credentials.json"
    if not path.exists():
        made = StorageKeys(f"DEV{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30))
        write_private(path, json.dumps(asdict(made)))
    return StorageKeys(**json.loads(path.read_text(encoding="utf-8")))


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="utf-8", delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)
