"""Logs what fails again and again once, until it fails in another way."""

from typing import Any

import structlog

log = structlog.get_logger()


class ProblemLog:
    """The problems that this process has logged, and that have not ended. Threads may share it."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], dict[str, Any]] = {}

    def note(self, event: str, subject: str, problem: str | None, **fields: Any) -> None:
        """Log a warning, unless the last one about this subject was the same. None ends it.

        subject distinguishes the problems of an event; fields are logged as well.
        """
        if problem is None:
            self._known.pop((event, subject), None)
            return
        logged = fields | {"problem": problem}
        if self._known.get((event, subject)) != logged:
            self._known[event, subject] = logged
            log.warning(event, **logged)
