"""The first pass over an input: validates every row and groups the valid ones by expiry."""

import json
import sqlite3
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from hashlib import blake2b
from itertools import islice
from typing import IO, Any

from valetkey.cli.bulk.columns import RowRequest, describe_repetition, item_identity, parse_row
from valetkey.cli.bulk.input_rows import (
    Columns,
    InputFormat,
    LineReader,
    Row,
    escape_values,
    read_rows,
)
from valetkey.cli.journal import FinishedRow
from valetkey.cli.row_errors import InputError, RowRefusal
from valetkey.wire.refusals import Code

_CACHE_KIB = 16_000  # beyond this, SQLite writes to a temporary file of its own
_DIGEST_BYTES = 16
MAX_EXPIRY_GROUPS = 16
"""The maximum number of different `expires_in` values: each has a batch in flight of its own."""
MAX_SHOWN_ERRORS = 10
INVALID_ROW = 0x80
KEPT_ROW = 0x40


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


class ExpiryGroup:
    """The items of all rows that have the same `expires_in` in seconds, or that have none."""

    def __init__(self, expires_in: int | None) -> None:
        self.expires_in = expires_in
        self.items = DiskList()
        self.largest_size = 0

    def append(self, item: dict[str, Any]) -> None:
        """Append the item of the next row."""
        self.items.append(item)
        self.largest_size = max(self.largest_size, item.get("size", 0))


class InputScan:
    """The validated content of an input, on disk except for nine bytes a row.

    row_groups has one byte for each row: the index of its expiry group in groups, with KEPT_ROW for
    a row that an earlier run was granted, or INVALID_ROW. lines has the line where each row begins,
    copied its values that are copied to the output, under names from copied_names.
    first_invalid_rows are the first MAX_SHOWN_ERRORS of invalid_rows. digest is the input's SHA-256
    in hexadecimal.
    """

    def __init__(self) -> None:
        self.lines = array("Q")
        self.copied = DiskList()
        self.copied_names: dict[str, None] = {}  # in the order of the input
        self.row_groups = bytearray()
        self.groups: list[ExpiryGroup] = []
        self.invalid_rows = DiskList()
        self.first_invalid_rows: list[RowRefusal] = []
        self.digest = ""
        self._group_indexes: dict[int | None, int] = {}

    def append(self, row: RowRequest | RowRefusal, copied: Mapping[str, Any]) -> None:
        """Append the next row, and the values to copy to the output."""
        self.lines.append(int(row.row) if isinstance(row, RowRefusal) else row.row_number)
        self.copied.append(copied)
        self.copied_names |= dict.fromkeys(copied)
        group_index = (
            self._add_invalid(row) if isinstance(row, RowRefusal) else self._add_valid(row)
        )
        self.row_groups.append(group_index)

    def lifetimes(self, default: int, first: int = 0) -> Iterator[int]:
        """Yield the lifetime that each row requests, from the index `first` on."""
        for group_index in islice(self.row_groups, first, None):
            is_valid = group_index != INVALID_ROW
            own = self.groups[group_index & ~KEPT_ROW].expires_in if is_valid else None
            yield default if own is None else own

    def keep_granted_rows(self, rows: Iterable[FinishedRow]) -> None:
        """Keep the rows that an earlier run was granted: only the others are requested.

        Raises InputError if these rows are not the results of this input.
        """
        all_groups, self.groups = self.groups, [ExpiryGroup(g.expires_in) for g in self.groups]
        with ExitStack() as stack:
            for group in all_groups:
                stack.callback(group.items.close)
            self._keep_rows(rows, [group.items.read() for group in all_groups])

    def close(self) -> None:
        """Remove the temporary files."""
        items = (group.items for group in self.groups)
        for disk_list in (self.copied, self.invalid_rows, *items):
            disk_list.close()

    def _keep_rows(
        self, rows: Iterable[FinishedRow], items: Sequence[Iterator[dict[str, Any]]]
    ) -> None:
        for index, row in enumerate(_rows_of_input(rows, len(self.row_groups))):
            group_index = self.row_groups[index]
            is_granted = row.expires_at is not None
            item = None if group_index == INVALID_ROW else next(items[group_index])
            if is_granted and (item is None or item["key"] != row.key):
                raise InputError(f"line {self.lines[index]}: the output has another key")
            if is_granted:
                self.row_groups[index] |= KEPT_ROW
            elif item is not None:
                self.groups[group_index].append(item)

    def _add_valid(self, row: RowRequest) -> int:
        if row.expires_in not in self._group_indexes:
            if len(self.groups) == MAX_EXPIRY_GROUPS:
                text = (
                    f"its expires_in differs from the {MAX_EXPIRY_GROUPS} values of the rows above:"
                    f" a file may have at most {MAX_EXPIRY_GROUPS} different ones"
                )
                limit = MAX_EXPIRY_GROUPS
                refusal = _refuse(row, Code.EXPIRY_INVALID, text, "expires_in", limit)
                return self._add_invalid(refusal)
            self._group_indexes[row.expires_in] = len(self.groups)
            self.groups.append(ExpiryGroup(row.expires_in))
        group_index = self._group_indexes[row.expires_in]
        self.groups[group_index].append(row.item)
        return group_index

    def _add_invalid(self, refusal: RowRefusal) -> int:
        self.invalid_rows.append(refusal.model_dump(mode="json"))
        if self.invalid_rows.count <= MAX_SHOWN_ERRORS:
            self.first_invalid_rows.append(refusal)
        return INVALID_ROW


@contextmanager
def scan_input(
    stream: IO[bytes], input_format: InputFormat, columns: Columns
) -> Iterator[InputScan]:
    """Validate a whole input, and yield its scan for use inside the `with` block.

    A row that repeats an earlier one in the columns of its identity is refused. Raises InputError,
    and OSError if the folder for temporary files is full.
    """
    lines, scan = LineReader(stream), InputScan()
    with closing(scan):
        with closing(SeenIndex()) as seen_index:
            for row in read_rows(lines, input_format, columns):
                request = row if isinstance(row, RowRefusal) else parse_row(row, columns.required)
                if isinstance(request, RowRequest):
                    identity = item_identity(request.item, columns.identity)
                    first_row = seen_index.find_or_add(identity, request.row_number)
                    if first_row is not None:
                        text = describe_repetition(first_row, columns.identity)
                        request = _refuse(request, Code.MALFORMED, text, "key")
                scan.append(request, _copied_values(row, request))
        scan.digest = lines.digest
        yield scan


def _rows_of_input(rows: Iterable[FinishedRow], total: int) -> Iterator[FinishedRow]:
    count = 0
    for count, row in enumerate(rows, 1):
        if count > total:
            break
        yield row
    if count != total:
        raise InputError(f"the input has {total:,} rows, and the output has more or fewer")


def _copied_values(row: Row | RowRefusal, request: RowRequest | RowRefusal) -> Mapping[str, Any]:
    if isinstance(row, RowRefusal):
        return {}
    return escape_values(row.copied) if isinstance(request, RowRefusal) else row.copied


def _refuse(
    row: RowRequest, code: Code, text: str, column: str, limit: int | None = None
) -> RowRefusal:
    key, ref = row.item["key"], row.item.get("ref")
    return RowRefusal.create(row.row_number, code, text, column, limit, key, ref)
