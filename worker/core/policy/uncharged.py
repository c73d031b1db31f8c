"""Measures what a decision records without a charge: refusals, and parts that are granted again.

Everything else in the audit log is bounded by quotas: it belongs to a grant that was charged.
"""

import json
from collections.abc import Mapping
from datetime import datetime

from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Code, QuotaState, Refusal
from worker.core.policy.decisions import ChunkDecision
from worker.core.policy.fingerprints import recorded_terms
from worker.core.quotas.cost import resets_at

MESSAGE_BYTES = 1_500
"""The bytes of a message in the database beside its terms and items, or of a cancellation."""

_ITEM_BYTES = 150  # beside the key and the reason


class NotRecorded(Exception):
    """The tenant may record nothing more without a charge: roll the transaction back.

    decisions are those that would do so, by batch id.
    """

    def __init__(self, decisions: Mapping[str, ChunkDecision]) -> None:
        super().__init__(*decisions)
        self.decisions = decisions


def pays_for_records(paid: int, items: int) -> bool:
    """Return true if charged items, each with another one, are all items that are recorded.

    So a tenant whose requests are mostly granted is never limited.
    """
    return 2 * paid >= items


def uncharged_bytes(message: ChunkMessage, decision: ChunkDecision, paid: int) -> int:
    """Return the bytes that a decision records without a charge.

    paid is the number of its items that are charged.
    """
    rows = decision.rows
    if pays_for_records(paid, len(rows)):
        return 0
    terms = len(json.dumps(recorded_terms(message.grant, message.grant.kind)))
    texts = sum(len(row.object_key.encode()) + len(json.dumps(row.detail)) for row in rows)
    return MESSAGE_BYTES + terms + _ITEM_BYTES * len(rows) + texts


def ceiling_refusal(limit: int, now: datetime) -> Refusal:
    """Refuse what would be recorded without a charge, when the day has no bytes left for it."""
    end = resets_at("day", now)
    quota = QuotaState(
        metric="uncharged_bytes", window="day", limit=limit, used=limit, resets_at=end
    )
    text = "refusals, repeated parts and unknown cancellations have filled what a day records"
    return Refusal(code=Code.QUOTA_EXCEEDED, field="", message=text, limit=limit, quota=quota)
