"""Releases expired grants, and ends what has expired with them."""

from worker.context import Context
from worker.db import usage
from worker.db.circuits import delete_old_circuits
from worker.db.engine import write_transaction
from worker.db.outbox import fail_expired_deliveries
from worker.db.reservations import release_expired
from worker.jobs.single_flight import JobRun
from worker.usecases.upkeep.delivery_attempt import EXPIRED
from worker.usecases.upkeep.partitions import create_partitions

MAX_ROWS = 1_000  # in one transaction, which makes other writers wait for as long as it takes


def clean_up(context: Context, run: JobRun | None = None) -> dict[str, int]:
    """Release expired reservations, delete old usage, and fail deliveries that have expired.

    Creates the partitions of the coming months. Waits for the database only. Any number of
    processes may do this at once. Returns counts. Raises Transient.
    """
    run = run or JobRun()
    released = _release_expired(context, run)
    undelivered = _fail_deliveries(context, run)
    partitions = create_partitions(context.engine, context.now(), context.problems)
    return {"released": released, "undelivered": undelivered, "partitions": partitions}


def _release_expired(context: Context, run: JobRun) -> int:
    now = context.now()
    total, released = 0, MAX_ROWS
    while released == MAX_ROWS and not run.is_stopping:
        with write_transaction(context.engine) as connection:
            released = release_expired(connection, now, MAX_ROWS)
        total += released
        run.progress()
    with write_transaction(context.engine) as connection:
        usage.delete_short_windows(connection, now)
    return total


def _fail_deliveries(context: Context, run: JobRun) -> int:
    now = context.now()
    total, failed = 0, MAX_ROWS
    while failed == MAX_ROWS and not run.is_stopping:
        with write_transaction(context.engine) as connection:
            failed = fail_expired_deliveries(connection, EXPIRED, now, MAX_ROWS)
        total += failed
        run.progress()
    with write_transaction(context.engine) as connection:
        delete_old_circuits(connection, now)
    return total
