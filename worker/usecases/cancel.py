"""Ending a batch before it is through."""

from collections.abc import Callable
from datetime import datetime

from valetkey.wire.messages import Cancelled, CancelMessage
from worker.db.ledger import Ledger


class Canceller:
    """Cancels batches; one in each process."""

    def __init__(self, ledger: Ledger, now: Callable[[], datetime]) -> None:
        self._ledger = ledger
        self._now = now

    def cancel(self, message: CancelMessage, key: str | None) -> Cancelled:
        """Grant nothing more of a batch, and release what is reserved for the rest of it.

        What was granted is out, and stays charged. A batch that has not arrived yet is refused when
        it does. Cancelling once more releases nothing more. Raises Transient.
        """
        return self._ledger.cancel(message, key, self._now())
