"""Charges uses that are learned of after the settlement of their slot."""

from collections import defaultdict
from collections.abc import Collection, Container, Sequence

from sqlalchemy import Connection

from worker.core.uses.settlement import kept_bytes
from worker.core.uses.verdicts import STORING, use_fingerprint
from worker.db.uses.insert import JudgedUse
from worker.db.uses.settlements import read_stored_sizes, read_unused
from worker.db.uses.stored_objects import ChunkKey

_Item = tuple[int, int]  # a batch number and an item number


def charge_late_uses(
    connection: Connection,
    uses: Sequence[JudgedUse],
    unsettled: Container[ChunkKey],
    last: Collection[bytes],
) -> list[JudgedUse]:
    """Return the uses with the bytes that each costs, None for one that costs nothing.

    A use costs what its object has more than what the settlement and earlier uses left charged. The
    last one that is recorded of a grant, by its fingerprint, costs all that the grant may still
    store: of those after it nothing is known.
    """
    suspects = [use for use in uses if _may_cost(use, last) and use.grant.chunk not in unsettled]
    kept = _read_kept(connection, suspects) if suspects else {}
    charged: list[JudgedUse] = []
    for use in uses:
        size = kept_bytes(
            None if _is_last(use, last) else use.report.size, use.grant.reserved_bytes
        )
        known = kept.get(_item(use), size)
        if _may_cost(use, last) and size > known:
            kept[_item(use)] = size
            charged.append(use._replace(charged_bytes=size - known))
        else:
            charged.append(use)
    return charged


def _read_kept(connection: Connection, uses: Collection[JudgedUse]) -> dict[_Item, int]:
    """Return the bytes that are still charged for the items of chunks that got some back."""
    unused = read_unused(connection, {use.grant.chunk for use in uses})
    grants = {_item(use): use.grant for use in uses if use.grant.chunk in unused}
    by_batch: defaultdict[int, set[int]] = defaultdict(set)
    for batch_number, item_number in grants:
        by_batch[batch_number].add(item_number)
    stored = {
        (batch_number, item_number): size
        for batch_number, items in by_batch.items()
        for item_number, size in read_stored_sizes(connection, batch_number, items).items()
    }
    kept: dict[_Item, int] = {}
    for item, grant in grants.items():
        is_unused = item[1] in unused[grant.chunk]
        kept[item] = kept_bytes(stored.get(item, 0 if is_unused else None), grant.reserved_bytes)
    return kept


def _may_cost(use: JudgedUse, last: Collection[bytes]) -> bool:
    return use.grant.has_known_key and (use.report.event in STORING or _is_last(use, last))


def _is_last(use: JudgedUse, last: Collection[bytes]) -> bool:
    # Hardly any grant has as many uses: hash only then.
    return bool(last) and use_fingerprint(use.report, use.grant) in last


def _item(use: JudgedUse) -> _Item:
    return use.grant.batch_number, use.grant.item_number
