"""The first pass over an input: validates every row and groups the valid ones by expiry."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import IO, Any

from valetkey.cli.bulk.columns import RowRequest, object_identity, parse_row
from valetkey.cli.bulk.disk_list import DiskList, SeenIndex
from valetkey.cli.bulk.lines import LineReader
from valetkey.cli.bulk.row_errors import RowRefusal
from valetkey.cli.bulk.rows import FIRST_ROW, Columns, InputFormat, read_rows
from valetkey.wire.refusals import Code

MAX_EXPIRY_GROUPS = 16
"""The maximum number of different `expires_in` values: each has a batch in flight of its own."""
MAX_SHOWN_ERRORS = 10
INVALID_ROW = 255


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
    """The validated content of an input, on disk except for one byte a row.

    row_groups has one byte for each row, from the row number first_row on: the index of its expiry
    group in groups, or INVALID_ROW. first_invalid_rows are the first MAX_SHOWN_ERRORS of
    invalid_rows. digest is the input's SHA-256 in hexadecimal.
    """

    def __init__(self, first_row: int = 1) -> None:
        self.first_row = first_row
        self.row_groups = bytearray()
        self.groups: list[ExpiryGroup] = []
        self.invalid_rows = DiskList()
        self.first_invalid_rows: list[RowRefusal] = []
        self.digest = ""
        self._group_indexes: dict[int | None, int] = {}

    def append(self, row: RowRequest | RowRefusal) -> None:
        """Append the next row."""
        group_index = (
            self._add_invalid(row) if isinstance(row, RowRefusal) else self._add_valid(row)
        )
        self.row_groups.append(group_index)

    def close(self) -> None:
        """Remove the temporary files."""
        for disk_list in (self.invalid_rows, *(group.items for group in self.groups)):
            disk_list.close()

    def _add_valid(self, row: RowRequest) -> int:
        if row.expires_in not in self._group_indexes:
            if len(self.groups) == MAX_EXPIRY_GROUPS:
                return self._add_invalid(_refuse_expiry_group(row))
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

    A row that repeats the key and version of an earlier one is refused. Raises InputError, and
    OSError if the folder for temporary files is full.
    """
    lines, scan = LineReader(stream), InputScan(FIRST_ROW[input_format])
    with closing(scan):
        with closing(SeenIndex()) as seen_index:
            for row in read_rows(lines, input_format, columns):
                request = row if isinstance(row, RowRefusal) else parse_row(row, columns.required)
                if isinstance(request, RowRequest):
                    request = _refuse_duplicate(request, seen_index)
                scan.append(request)
        scan.digest = lines.digest
        yield scan


def _refuse_duplicate(row: RowRequest, seen_index: SeenIndex) -> RowRequest | RowRefusal:
    first_row = seen_index.find_or_add(object_identity(row.item), row.row_number)
    if first_row is None:
        return row
    text, key = f"it repeats the object of row {first_row}: name each object once", row.item["key"]
    return RowRefusal.create(row.row_number, Code.MALFORMED, text, "key", key=key)


def _refuse_expiry_group(row: RowRequest) -> RowRefusal:
    limit, key = MAX_EXPIRY_GROUPS, row.item["key"]
    text = (
        f"its expires_in differs from the {limit} values of the rows above: "
        f"a file may have at most {limit} different ones"
    )
    return RowRefusal.create(row.row_number, Code.EXPIRY_INVALID, text, "expires_in", limit, key)
