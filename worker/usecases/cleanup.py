"""What time brings about: the sweep over what has ended by itself."""

from collections.abc import Callable
from datetime import datetime

from worker.db.ledger import Ledger
from worker.usecases.multipart import MultipartUploads


class Cleanup:
    """Ends what its grants have outlived; any number of these may run at once."""

    def __init__(
        self, uploads: MultipartUploads, ledger: Ledger, now: Callable[[], datetime]
    ) -> None:
        self._uploads = uploads
        self._ledger = ledger
        self._now = now

    def sweep(self) -> dict[str, int]:
        """Release what lapsed grants held, and abort their unfinished multipart uploads.

        Counts what came of it. Raises Transient.
        """
        lapsed = self._ledger.release_lapsed(self._now())
        return {"lapsed": lapsed, **self._uploads.abort_lapsed(self._now())}
