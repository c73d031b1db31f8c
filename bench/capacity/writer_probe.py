"""Samples how often SQLite's write lock is taken: `python -m bench.capacity.writer_probe PATH`.

It prints a line when it starts, and the share when its stdin ends. It takes no lock itself: in WAL
mode a writer has a POSIX lock on one byte of the file PATH-shm (https://sqlite.org/walformat.html),
and the system tells without waiting. Processes cannot see their own locks, so this is one.
"""

import fcntl
import os
import struct
import sys
from pathlib import Path
from select import select

_WRITE_LOCK_BYTE = 120
_INTERVAL = 0.0005  # seconds
_FLOCK = "hhqqi4x"  # l_type, l_whence, l_start, l_len and l_pid of a 64-bit Linux


def main(path: str) -> None:
    """Sample until stdin ends."""
    samples = taken = 0
    with Path(f"{path}-shm").open("rb") as shared:
        print("started", flush=True)
        is_ended = False
        while not is_ended:
            samples += 1
            taken += is_taken(shared.fileno())
            is_ended = bool(select([sys.stdin], [], [], _INTERVAL)[0])
    print(taken / samples)


def is_taken(descriptor: int) -> bool:
    """Return whether another process has the write lock."""
    query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _WRITE_LOCK_BYTE, 1, 0)
    answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, query)
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)


if __name__ == "__main__":
    main(sys.argv[1])
