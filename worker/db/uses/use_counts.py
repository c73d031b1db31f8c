"""Limits the uses that are recorded of one grant."""

from collections import Counter
from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, func, select, tuple_

from models import Use
from worker.core.uses.verdicts import use_fingerprint
from worker.db.uses.insert import JudgedUse

MAX_USES = 1_000
"""The largest number of uses of a grant that are recorded, downloads apart.

A form may be used as often as its client likes, and each use is a row, a part of each status and of
each webhook. The newest object of a key is kept up to date all the same.
"""

_PER_QUERY = 500

_Item = tuple[int, int]  # a batch number and an item number


def leave_out_excess(
    connection: Connection, uses: Sequence[JudgedUse]
) -> tuple[list[JudgedUse], set[bytes]]:
    """Return the uses without those that are more than a grant may have.

    The second value has the fingerprints of the last uses that are recorded of their grants. Uses
    that are recorded already count once.
    """
    limited = [use for use in uses if _is_limited(use)]
    counts = _count_uses(connection, {_item(use) for use in limited})
    highest = counts + Counter(map(_item, limited))
    near = {_fingerprint(use) for use in limited if highest[_item(use)] >= MAX_USES}
    if not near:
        return list(uses), set()
    known = _read_known(connection, near)
    kept: list[JudgedUse] = []
    last: set[bytes] = set()
    for use in uses:
        mark = _fingerprint(use)
        if mark in near and mark not in known:
            known.add(mark)
            counts[_item(use)] += 1
            if counts[_item(use)] == MAX_USES:
                last.add(mark)
        if mark not in near or counts[_item(use)] <= MAX_USES:
            kept.append(use)
    return kept, last


def _read_known(connection: Connection, fingerprints: Iterable[bytes]) -> set[bytes]:
    known: set[bytes] = set()
    ordered = sorted(fingerprints)
    for start in range(0, len(ordered), _PER_QUERY):
        part = Use.fingerprint.in_(ordered[start : start + _PER_QUERY])
        known |= set(connection.scalars(select(Use.fingerprint).where(part)))
    return known


def _fingerprint(use: JudgedUse) -> bytes:
    return use_fingerprint(use.report, use.grant)


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
