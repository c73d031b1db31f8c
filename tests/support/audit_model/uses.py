"""Generates uses and settlements of a log's grants, and tells the states of grants from them."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from hypothesis import strategies as st
from sqlalchemy import Connection, insert

from models import Settlement, StoredObject, Use
from tests.support.builders.audit_rows import AuditedBatch
from worker.audit.grant_states import GrantState, StateFacts, grant_state
from worker.shared.pages import format_items

Place = tuple[int, int]
"""A batch number and an item number, or a chunk number."""

NOW = datetime(2026, 10, 31, 19, 15, tzinfo=UTC)
"""The moment at which grants of one hour end that were issued at a quarter past six."""

NOWS = st.sampled_from([NOW, NOW - timedelta(microseconds=1), NOW + timedelta(seconds=1)])


class LoggedUse(NamedTuple):
    """A use of one grant."""

    item: Place
    event: str
    verdict: Any
    occurred_at: datetime
    fingerprint: bytes


class LoggedUses(NamedTuple):
    """Uses, the grants whose object is the newest of its key, and unused items by settled chunk."""

    uses: tuple[LoggedUse, ...] = ()
    current: frozenset[Place] = frozenset()
    unused: Mapping[Place, frozenset[int]] = {}

    def write(self, connection: Connection) -> None:
        if self.uses:
            connection.execute(insert(Use), [_use_row(use) for use in self.uses])
        if self.current:
            connection.execute(insert(StoredObject), [_object_row(*item) for item in self.current])
        if self.unused:
            rows = [_settlement_row(*chunk, items) for chunk, items in self.unused.items()]
            connection.execute(insert(Settlement), rows)

    def state(self, batch: AuditedBatch, item: int, now: datetime) -> GrantState:
        """Return the state of an issued grant, from a loop over all uses."""
        chunk = item // batch.chunk_size
        place = batch.number, item
        own = sorted(
            (use.occurred_at, use.fingerprint, use) for use in self.uses if use.item == place
        )
        stored = [use.verdict for *_, use in own if use.event in {"stored", "completed"}]
        issued_at = batch.decided_at + timedelta(seconds=chunk * batch.seconds_between_chunks)
        facts = StateFacts(
            batch.kind,
            issued_at + timedelta(seconds=batch.expires_in),
            stored[-1] if stored else None,
            sum(use.event == "downloaded" for *_, use in own),
            bool(stored) and place not in self.current,
            item in self.unused.get((batch.number, chunk), ()),
        )
        return grant_state(facts, now)


def _use_row(use: LoggedUse) -> dict[str, Any]:
    batch, item = use.item
    values = {"tenant": "acme", "batch_number": batch, "item_number": item, "group_id": "g"}
    told = {"event": use.event, "verdict": use.verdict, "source": "event"}
    times = dict.fromkeys(("occurred_at", "recorded_at"), use.occurred_at)
    return values | told | times | {"fingerprint": use.fingerprint}


def _object_row(batch: int, item: int) -> dict[str, Any]:
    key = {"bucket": "b", "object_key": f"{batch}.{item}", "tenant": "acme"}
    grant = {"batch_number": batch, "item_number": item, "sequencer": ""}
    state = {"is_deleted": False, "is_counted": True, "changed_at": NOW}
    return key | grant | state | {"size": 1}


def _settlement_row(batch: int, chunk: int, items: frozenset[int]) -> dict[str, Any]:
    place = {"batch_number": batch, "chunk_number": chunk, "tenant": "acme"}
    numbers = {"unused": format_items(items), "settled_at": NOW}
    return place | numbers | {"used_bytes": 0, "returned_bytes": 0}


@st.composite
def logged_uses(draw: st.DrawFn, batches: list[AuditedBatch]) -> LoggedUses:
    """Generate uses of issued grants, which repeat items and moments."""
    issued = [
        (batch.number, item)
        for batch in batches
        for item in range(len(batch.object_keys))
        if item not in batch.codes
    ]
    if not issued:
        return LoggedUses()
    events = st.sampled_from(["stored", "completed", "downloaded", "aborted", "deleted"])
    verdicts = st.sampled_from(["as_granted", "late", "mismatched"])
    moments = st.sampled_from([NOW, NOW - timedelta(microseconds=1), NOW - timedelta(days=1)])
    use = st.builds(
        LoggedUse,
        st.sampled_from(issued),
        events,
        verdicts,
        moments,
        st.binary(min_size=32, max_size=32),
    )
    uses = draw(st.lists(use, max_size=8, unique_by=lambda each: each.fingerprint))
    current = draw(st.frozensets(st.sampled_from(issued)))
    chunk_size = {batch.number: batch.chunk_size for batch in batches}
    unused: dict[Place, frozenset[int]] = {}
    for batch, item in draw(st.sets(st.sampled_from(issued))):
        chunk = batch, item // chunk_size[batch]
        unused[chunk] = unused.get(chunk, frozenset()) | {item}
    return LoggedUses(tuple(uses), current, unused)
