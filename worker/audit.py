"""Read the audit log, a page at a time."""

from typing import NamedTuple

from sqlalchemy import Connection

from worker.adapters import log
from worker.adapters.log import Entry, Place, Wanted


class Page(NamedTuple):
    """Audit rows, newest first, and the place to go on behind; None where there are no more."""

    entries: list[Entry]
    after: Place | None


def page(connection: Connection, wanted: Wanted, limit: int, after: Place | None = None) -> Page:
    """Read up to limit rows behind one place.

    Rows neither change nor move, so page by page every row that was there at the start comes once,
    whatever is added meanwhile. Raises UnknownPlace where after is in no batch, and AmbiguousPlace
    where it is in several.
    """
    found = log.entries(connection, wanted, limit + 1, after)
    shown = found[:limit]
    return Page(shown, _place(shown[-1]) if len(found) > limit else None)


def _place(entry: Entry) -> Place:
    batch, _, item = entry.grant.rpartition(".")
    return Place(batch, int(item), entry.tenant)
