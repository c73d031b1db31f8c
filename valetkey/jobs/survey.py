"""The first pass over an input: what it asks for, what is wrong with it, and in which order."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import IO, Any

from valetkey.jobs.bad import BadRow
from valetkey.jobs.columns import Wanted, same, wanted
from valetkey.jobs.lines import Lines
from valetkey.jobs.rows import FIRST_ROW, Columns, Format, read
from valetkey.jobs.spools import Seen, Spool
from valetkey.refusals import Code

MOST_LIVES = 16
"""How many different lives the rows may have: for each, a batch of its own is under way."""
MOST_SHOWN = 10
BAD = 255


class Life:
    """The items of all rows that have the same `expires_in` in seconds, or none of their own."""

    def __init__(self, expires_in: int | None) -> None:
        self.expires_in = expires_in
        self.items = Spool()
        self.largest = 0

    def add(self, item: dict[str, Any]) -> None:
        """Take one more."""
        self.items.add(item)
        self.largest = max(self.largest, item.get("size", 0))


class Survey:
    """What an input asks for, on disk but for a byte a row.

    plan says of each row, from first_row on, which of the lives its item is in, or that it is BAD;
    first_bad are the first of those. digest is the input's SHA-256.
    """

    def __init__(self, first_row: int = 1) -> None:
        self.first_row = first_row
        self.plan = bytearray()
        self.lives: list[Life] = []
        self.bad = Spool()
        self.first_bad: list[BadRow] = []
        self.digest = ""
        self._places: dict[int | None, int] = {}

    def take(self, found: Wanted | BadRow) -> None:
        """Take the next row."""
        place = self._refuse(found) if isinstance(found, BadRow) else self._place(found)
        self.plan.append(place)

    def close(self) -> None:
        """Remove what is on disk."""
        for spool in (self.bad, *(life.items for life in self.lives)):
            spool.close()

    def _place(self, found: Wanted) -> int:
        life = found.expires_in
        if life not in self._places:
            if len(self.lives) == MOST_LIVES:
                return self._refuse(_too_many(found))
            self._places[life] = len(self.lives)
            self.lives.append(Life(life))
        place = self._places[life]
        self.lives[place].add(found.item)
        return place

    def _refuse(self, bad: BadRow) -> int:
        self.bad.add(bad.model_dump(mode="json"))
        if self.bad.count <= MOST_SHOWN:
            self.first_bad.append(bad)
        return BAD


@contextmanager
def surveyed(stream: IO[bytes], form: Format, columns: Columns) -> Iterator[Survey]:
    """Read an input to its end; what it asks for is there until the block ends.

    A key counts once, unless other versions of it are meant. Raises BadInput, and OSError where
    the folder for temporary files has no room.
    """
    lines, survey = Lines(stream), Survey(FIRST_ROW[form])
    with closing(survey):
        with closing(Seen()) as seen:
            for row in read(lines, form, columns):
                found = row if isinstance(row, BadRow) else wanted(row, columns.needed)
                survey.take(found if isinstance(found, BadRow) else _new(found, seen))
        survey.digest = lines.digest
        yield survey


def _new(found: Wanted, seen: Seen) -> Wanted | BadRow:
    first = seen.before(same(found.item), found.number)
    if first is None:
        return found
    text, key = f"its key is that of row {first}", found.item["key"]
    return BadRow.of(found.number, Code.MALFORMED, text, "key", key=key)


def _too_many(found: Wanted) -> BadRow:
    text = f"its expires_in is none of the first {MOST_LIVES} that there are"
    number, key = found.number, found.item["key"]
    return BadRow.of(number, Code.EXPIRY_INVALID, text, "expires_in", MOST_LIVES, key)
