"""Releases what has expired, and creates what the coming months need."""

from collections.abc import Callable

from worker.base.database_engine import write_transaction
from worker.base.jobs import JobRun
from worker.base.month_partitions import create_partitions
from worker.context import Context
from worker.ledger import quota_usage
from worker.ledger.reservations import release_expired

# In one transaction, which makes other writers wait for as long as it takes.
MAX_CLEANUP_ROWS = 1_000


def clean_up(context: Context, run: JobRun | None = None) -> dict[str, int]:
    """Release expired reservations, delete old usage, and create the coming months' partitions.

    Waits for the database only. Any number of processes may do this at once. Returns counts.
    Raises Transient.
    """
    run = run or JobRun()
    released = clean_in_turns(context, run, release_expired)
    with write_transaction(context.engine) as connection:
        quota_usage.delete_short_windows(connection, context.now())
    partitions = create_partitions(context.engine, context.now(), context.problems)
    return {"released": released, "partitions": partitions}


def clean_in_turns(context: Context, run: JobRun, clean: Callable[..., int]) -> int:
    """Call a function in transactions of its own until it finds fewer rows than it may change."""
    now = context.now()
    total, count = 0, MAX_CLEANUP_ROWS
    while count == MAX_CLEANUP_ROWS and not run.is_stopping:
        with write_transaction(context.engine) as connection:
            count = clean(connection, now=now, max_rows=MAX_CLEANUP_ROWS)
        total += count
        run.progress()
    return total
