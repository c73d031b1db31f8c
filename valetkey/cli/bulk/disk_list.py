"""What a job must not forget and need not have in memory: on disk, until it ends."""

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice
from typing import Any

_CACHE = 16_000  # KiB: what is over it goes to a file of SQLite's own
_DIGEST = 16  # bytes


class DiskList:
    """JSON values in a file without a name, written once and then read in order."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - see close
        self.count = 0

    def add(self, value: Any) -> None:
        """Write one more."""
        self._file.write(json.dumps(value) + "\n")
        self.count += 1

    def read(self, first: int = 0) -> Iterator[Any]:
        """Those from the number `first` on; one reader at a time."""
        self._file.seek(0)
        return map(json.loads, islice(self._file, first, None))

    def close(self) -> None:
        """Remove it."""
        self._file.close()


class SeenIndex:
    """Which things were there before, in some 20 bytes each, most of them on disk.

    Things are told apart by 16 bytes of BLAKE2b. That costs 5 µs a row, and 16 MB of memory at
    most; a set would take 100 MB for a million.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # a file without a name
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE}"):
            self._database.execute(f"PRAGMA {pragma}")
        table = "seen (thing BLOB PRIMARY KEY, row INTEGER NOT NULL) WITHOUT ROWID"
        self._database.execute(f"CREATE TABLE {table}")
        self._database.execute("BEGIN")

    def before(self, thing: bytes, row: int) -> int | None:
        """The row that had this thing first, unless this one does."""
        name = blake2b(thing, digest_size=_DIGEST).digest()
        new = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (name, row))
        if new.rowcount:
            return None
        found = self._database.execute("SELECT row FROM seen WHERE thing = ?", (name,))
        first: int = found.fetchone()[0]
        return first

    def close(self) -> None:
        """Remove it."""
        self._database.close()
