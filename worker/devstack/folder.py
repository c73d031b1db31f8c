"""The data folder: a lock that admits one stack at a time, and files with owner-only secrets."""

import fcntl
import json
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from worker.errors import WorkerError
from worker.private_files import create_private_folder, make_private, mode_of_others

_POLL_INTERVAL = 0.1  # seconds
_PROBE_WAIT = 0.5  # seconds for which `has_running_stack` may hold the lock, with margin
_ORPHAN_WAIT = (
    30  # seconds until the servers of a killed stack are stopped, at most 20, with margin
)


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
    of them still writes to it, even if this process was killed. After a kill, the next stack waits
    until they are stopped.
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
    start = time.monotonic()
    while not _try_lock(lock_fd):
        wait = _PROBE_WAIT if _is_alive(_holder(lock_fd)) else _ORPHAN_WAIT
        if time.monotonic() > start + wait:
            raise FolderInUse(
                f"{data} is in use by another `python -m worker dev`, or by servers that kept "
                "running after such a command was killed. Stop those processes, or choose another "
                "folder with --data. `python -m worker dev status` shows what runs there."
            )
        time.sleep(_POLL_INTERVAL)
    os.ftruncate(lock_fd, 0)
    os.pwrite(lock_fd, str(os.getpid()).encode(), 0)


def _try_lock(lock_fd: int) -> bool:
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(lock_fd: int) -> int | None:
    """Return the id of the process that locked the folder last, None if it wrote none."""
    text = os.pread(lock_fd, 32, 0)
    return int(text) if text.isdigit() else None


def _is_alive(pid: int | None) -> bool:
    if pid is None:  # a stack that is about to write it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def has_running_stack(data: Path) -> bool:
    """Return whether a stack runs in the data folder, not only servers of one that was killed."""
    try:
        lock_fd = os.open(data / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        return not _try_lock(lock_fd) and _is_alive(_holder(lock_fd))
    finally:
        os.close(lock_fd)


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
