"""Settles upload slots now that are due 15 minutes after their end: a clock that is ahead.

The upkeep worker does the same in time. The environment has the service's settings.
"""

from dataclasses import replace
from datetime import timedelta

from worker import clock
from worker.context import process_context
from worker.issue.cleanup import clean_up
from worker.uses.settlement import settle_ended_slots
from worker.uses.use_reports import GRACE


def main() -> None:
    """Release the slots that ended, and settle them."""
    ahead = GRACE + timedelta(minutes=1)
    context = replace(process_context(), now=lambda: clock.now() + ahead)
    clean_up(context)
    settle_ended_slots(context)


if __name__ == "__main__":
    main()
