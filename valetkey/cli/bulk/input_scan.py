"""The first pass over an input: what it asks for, what is wrong with it, and in which order."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import IO, Any

from valetkey.cli.bulk.columns import RowRequest, object_identity, parse_row
from valetkey.cli.bulk.disk_list import DiskList, SeenIndex
from valetkey.cli.bulk.lines import LineReader
from valetkey.cli.bulk.row_errors import RowRefusal
from valetkey.cli.bulk.rows import FIRST_ROW, Columns, Format, read_rows
from valetkey.wire.refusals import Code

MAX_EXPIRY_GROUPS = 16
"""How many different lives the rows may have: for each, a batch of its own is under way."""
MAX_SHOWN_ERRORS = 10
BAD_ROW = 255


class ExpiryGroup:
    """The items of all rows that have the same `expires_in` in seconds, or none of their own."""

    def __init__(self, expires_in: int | None) -> None:
        self.expires_in = expires_in
        self.items = DiskList()
        self.largest = 0

    def add(self, item: dict[str, Any]) -> None:
        """Take one more."""
        self.items.add(item)
        self.largest = max(self.largest, item.get("size", 0))


class InputScan:
    """What an input asks for, on disk but for a byte a row.

    plan says of each row, from first_row on, which of the lives its item is in, or that it is BAD;
    first_bad are the first of those. digest is the input's SHA-256.
    """

    def __init__(self, first_row: int = 1) -> None:
        self.first_row = first_row
        self.plan = bytearray()
        self.lives: list[ExpiryGroup] = []
        self.bad = DiskList()
        self.first_bad: list[RowRefusal] = []
        self.digest = ""
        self._places: dict[int | None, int] = {}

    def take(self, found: RowRequest | RowRefusal) -> None:
        """Take the next row."""
        place = self._refuse(found) if isinstance(found, RowRefusal) else self._place(found)
        self.plan.append(place)

    def close(self) -> None:
        """Remove what is on disk."""
        for spool in (self.bad, *(life.items for life in self.lives)):
            spool.close()

    def _place(self, found: RowRequest) -> int:
        life = found.expires_in
        if life not in self._places:
            if len(self.lives) == MAX_EXPIRY_GROUPS:
                return self._refuse(_too_many(found))
            self._places[life] = len(self.lives)
            self.lives.append(ExpiryGroup(life))
        place = self._places[life]
        self.lives[place].add(found.item)
        return place

    def _refuse(self, bad: RowRefusal) -> int:
        self.bad.add(bad.model_dump(mode="json"))
        if self.bad.count <= MAX_SHOWN_ERRORS:
            self.first_bad.append(bad)
        return BAD_ROW


@contextmanager
def scan_input(stream: IO[bytes], form: Format, columns: Columns) -> Iterator[InputScan]:
    """Read an input to its end; what it asks for is there until the block ends.

    A key counts once, unless other versions of it are meant. Raises BadInput, and OSError where
    the folder for temporary files has no room.
    """
    lines, survey = LineReader(stream), InputScan(FIRST_ROW[form])
    with closing(survey):
        with closing(SeenIndex()) as seen:
            for row in read_rows(lines, form, columns):
                found = row if isinstance(row, RowRefusal) else parse_row(row, columns.needed)
                survey.take(found if isinstance(found, RowRefusal) else _new(found, seen))
        survey.digest = lines.digest
        yield survey


def _new(found: RowRequest, seen: SeenIndex) -> RowRequest | RowRefusal:
    first = seen.before(object_identity(found.item), found.number)
    if first is None:
        return found
    text, key = f"its key is that of row {first}", found.item["key"]
    return RowRefusal.of(found.number, Code.MALFORMED, text, "key", key=key)


def _too_many(found: RowRequest) -> RowRefusal:
    text = f"its expires_in is none of the first {MAX_EXPIRY_GROUPS} that there are"
    number, key = found.number, found.item["key"]
    return RowRefusal.of(number, Code.EXPIRY_INVALID, text, "expires_in", MAX_EXPIRY_GROUPS, key)
