"""A batch by its id alone: how far it has come, and its chunks' grants once more."""

from typing import Any

from valetkey.wire.messages import BatchMessage, Outcome
from valetkey.wire.refusals import Refusal
from worker.core.policy.decisions import GrantRow, chunk_outcome, item_refusal_values
from worker.db.ledger import Ledger
from worker.db.reopening import BATCH_UNKNOWN, BatchReader
from worker.usecases.reissue import Reissuer


class Reopener:
    """Answers for batches that were asked for before; one in each process. Charges nothing."""

    def __init__(self, batches: BatchReader, ledger: Ledger, reissuer: Reissuer) -> None:
        self._batches = batches
        self._ledger = ledger
        self._reissuer = reissuer

    def reopen(self, message: BatchMessage) -> dict[str, Any]:
        """Answer how far a batch of the tenant has come, or one of its chunks again.

        A chunk is signed from its rows, whichever of the tenant's keys asked for it first; a
        refused one says its keys, which whoever asks may not know. Raises Transient.
        """
        if message.chunk is None:
            state = self._batches.state(message.tenant, message.batch)
            if state is None:
                return _refused(message, BATCH_UNKNOWN)
            return state.model_dump(mode="json", exclude_none=True)
        place = self._batches.place(message.tenant, message.batch, message.chunk)
        if isinstance(place, Refusal):
            return _refused(message, place)
        decided = self._reissuer.reissue(self._ledger.recorded(place, message.chunk))
        said = chunk_outcome(message.batch, message.chunk, decided)
        if decided.refusal is None:
            return said
        return said | {"items": [_refused_item(row, decided.refusal) for row in decided.rows]}


def _refused(message: BatchMessage, refusal: Refusal) -> dict[str, Any]:
    said = Outcome(batch=message.batch, chunk=message.chunk or 0, status="refused", refusal=refusal)
    return said.model_dump(mode="json", exclude_none=True)


def _refused_item(row: GrantRow, of_all: Refusal) -> dict[str, Any]:
    """What refused an item alone, or else what refuses its whole chunk."""
    own = row.detail if row.code is not None else None
    return own or item_refusal_values(of_all, row.key)
