"""Limits the uses that are recorded of one grant."""

from collections import Counter
from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, func, select, tuple_

from models import Use
from worker.db.uses.insert import JudgedUse

MAX_USES = 1_000
"""The largest number of uses of a grant that are recorded, downloads apart.

A form may be used as often as its client likes, and each use is a row, a part of each status and of
each webhook. The newest object of a key is kept up to date all the same.
"""

_PER_QUERY = 500

_Item = tuple[int, int]  # a batch number and an item number


def leave_out_excess(connection: Connection, uses: Sequence[JudgedUse]) -> list[JudgedUse]:
    """Return the uses without those that are more than a grant may have."""
    counts = _count_uses(connection, {_item(use) for use in uses if _is_limited(use)})
    kept: list[JudgedUse] = []
    for use in uses:
        counts[_item(use)] += _is_limited(use)
        if not _is_limited(use) or counts[_item(use)] <= MAX_USES:
            kept.append(use)
    return kept


def _is_limited(use: JudgedUse) -> bool:
    return use.report.event != "downloaded"  # each is of a request that storage counted


def _item(use: JudgedUse) -> _Item:
    return use.grant.batch_number, use.grant.item_number


def _count_uses(connection: Connection, items: Iterable[_Item]) -> Counter[_Item]:
    ordered = sorted(items)
    key = Use.batch_number, Use.item_number
    query = select(*key, func.count()).where(Use.event != "downloaded").group_by(*key)
    counts: Counter[_Item] = Counter()
    for start in range(0, len(ordered), _PER_QUERY):
        part = query.where(tuple_(*key).in_(ordered[start : start + _PER_QUERY]))
        counts |= Counter({(batch, item): n for batch, item, n in connection.execute(part)})
    return counts
