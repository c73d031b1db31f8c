"""A small file system that tests fill up, or else a limit on the size of the database's file."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SIZE = 256 * 2**20  # bytes; holds some million audit rows
_BLOCK = bytes(2**16)
_FILLER = "filler"


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """Mount a small file system in a folder; yield None if this process may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE},mode=700", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    try:
        yield folder
    finally:
        command = ["umount", "--lazy", str(folder)]
        subprocess.run(command, check=True)


def fill_disk(folder: Path) -> None:
    """Write to a file until the file system is full."""
    with (folder / _FILLER).open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(_BLOCK)


def free_disk(folder: Path) -> None:
    """Delete the file that fills the file system."""
    (folder / _FILLER).unlink()


CAN_LIMIT_FILES = sys.platform == "linux"
"""True if the limits of running processes can be changed."""


def limit_file_size(pids: list[int], size: int) -> None:
    """Make processes fail to write beyond this size to any file; -1 removes the limit."""
    if sys.platform == "linux":
        for pid in pids:
            with suppress(ProcessLookupError):
                _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
