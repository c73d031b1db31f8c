"""Settles upload slots now that are due 15 minutes after their end: a clock that is ahead.

The upkeep worker does the same in time. The environment has the service's settings.
"""

from dataclasses import replace
from datetime import timedelta

from worker import clock
from worker.context import Context, process_context
from worker.issue.cleanup import clean_up
from worker.uses.settlement import settle_ended_slots
from worker.uses.use_reports import GRACE


def main() -> None:
    """Release the slots that ended, and settle them.

    Storage of a busy machine may not answer in time: what was postponed is due ten minutes later,
    before any other slot of the demo is.
    """
    minutes = timedelta(minutes=1)
    clean_up(_context_ahead(minutes))
    if not settle_ended_slots(_context_ahead(minutes)).get("settled"):
        settle_ended_slots(_context_ahead(minutes + timedelta(minutes=11)))


def _context_ahead(minutes: timedelta) -> Context:
    ahead = GRACE + minutes
    return replace(process_context(), now=lambda: clock.now() + ahead)


if __name__ == "__main__":
    main()
