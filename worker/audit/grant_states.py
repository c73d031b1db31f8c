"""Decides the state of an issued grant from the facts about it."""

from datetime import datetime
from typing import Literal, NamedTuple

from worker.rules.issued_grants import SLOT_KINDS

Verdict = Literal["as_granted", "late", "mismatched"]
"""The result of a comparison. A use that is late and mismatched is mismatched."""

STORING = ("stored", "completed")
"""The events after which storage has an object."""

DOWNLOADED = "downloaded"

GrantState = Literal["open", "used", "unused", "late", "mismatched", "overwritten", "unknown"]
"""The states of an issued grant.

open: it can be used, and no source reports a use.
used: it was used as granted, once or more.
unused: an upload slot that ended, and for which storage has no object.
late: its object was stored after its end, as a PUT that began before may be.
mismatched: its object has another size, type or checksum than granted.
overwritten: another grant stored an object under its key later.
unknown: it ended, and no source reports a use. For a download, access logs would.
"""


class StateFacts(NamedTuple):
    """The facts about one issued grant that decide its state.

    stored_verdict is that of the newest object that the grant stored, None if it stored none.
    is_replaced is true if the newest object of its key is of another grant. is_settled is true if
    the settlement of its slot found no object. It can also have found nothing certain.
    """

    kind: str
    expires_at: datetime
    stored_verdict: Verdict | None = None
    downloads: int = 0
    is_replaced: bool = False
    is_settled: bool = False


def grant_state(facts: StateFacts, now: datetime) -> GrantState:
    """Return the state of an issued grant."""
    if facts.stored_verdict is not None:
        if facts.is_replaced:
            return "overwritten"
        return "used" if facts.stored_verdict == "as_granted" else facts.stored_verdict
    if facts.downloads:
        return "used"
    if now < facts.expires_at:
        return "open"
    return "unused" if facts.kind in SLOT_KINDS and facts.is_settled else "unknown"
