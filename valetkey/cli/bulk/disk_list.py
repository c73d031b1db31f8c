"""Temporary storage on disk for data of a bulk job that is too large for memory."""

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice
from typing import Any

_CACHE_KIB = 16_000  # beyond this, SQLite writes to a temporary file of its own
_DIGEST_BYTES = 16


class DiskList:
    """A list of JSON values in an unnamed temporary file, appended to first and then read."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - see close
        self.count = 0

    def append(self, value: Any) -> None:
        """Append one JSON value."""
        self._file.write(json.dumps(value) + "\n")
        self.count += 1

    def read(self, first: int = 0) -> Iterator[Any]:
        """Yield the values from the index `first` on. Only one reader at a time is possible."""
        self._file.seek(0)
        return map(json.loads, islice(self._file, first, None))

    def close(self) -> None:
        """Close and remove the temporary file."""
        self._file.close()


class SeenIndex:
    """An index of identities and the rows where they first appeared, mostly on disk.

    An entry takes about 20 bytes. Identities are compared by 16 bytes of BLAKE2b. That costs 5 µs
    a row and at most 16 MB of memory; a set would take 100 MB for a million rows.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # an unnamed temporary file
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}"):
            self._database.execute(f"PRAGMA {pragma}")
        table = "seen (identity BLOB PRIMARY KEY, row INTEGER NOT NULL) WITHOUT ROWID"
        self._database.execute(f"CREATE TABLE {table}")
        self._database.execute("BEGIN")

    def find_or_add(self, identity: bytes, row_number: int) -> int | None:
        """Return the earlier row with this identity, or add this row and return None."""
        digest = blake2b(identity, digest_size=_DIGEST_BYTES).digest()
        insert = "INSERT OR IGNORE INTO seen VALUES (?, ?)"
        if self._database.execute(insert, (digest, row_number)).rowcount:
            return None
        select = "SELECT row FROM seen WHERE identity = ?"
        first_row: int = self._database.execute(select, (digest,)).fetchone()[0]
        return first_row

    def close(self) -> None:
        """Close and remove the temporary database."""
        self._database.close()
