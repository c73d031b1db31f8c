"""What time brings about: the sweep over what has ended by itself."""

from collections.abc import Callable
from datetime import datetime

from worker.multipart import Uploads


class Upkeep:
    """Ends what its grants have outlived; any number of these may run at once."""

    def __init__(self, uploads: Uploads, now: Callable[[], datetime]) -> None:
        self._uploads = uploads
        self._now = now

    def sweep(self) -> dict[str, int]:
        """Abort unfinished multipart uploads whose grants have ended; count what came of it."""
        return self._uploads.abort_lapsed(self._now())
