"""Releases expired grants, and aborts their unfinished multipart uploads."""

from worker.context import Context
from worker.db import usage
from worker.db.engine import write_transaction
from worker.db.reservations import release_expired
from worker.usecases.multipart import abort_expired

MAX_ROWS = 1_000  # in one transaction, which makes other writers wait for as long as it takes


def clean_up(context: Context) -> dict[str, int]:
    """Release expired reservations, delete old usage, and abort the uploads of expired grants.

    Any number of processes may do this at once. Returns counts. Raises Transient.
    """
    return {"released": _release_expired(context), **abort_expired(context)}


def _release_expired(context: Context) -> int:
    now = context.now()
    total, released = 0, MAX_ROWS
    while released == MAX_ROWS:
        with write_transaction(context.engine) as connection:
            released = release_expired(connection, now, MAX_ROWS)
        total += released
    with write_transaction(context.engine) as connection:
        usage.delete_short_windows(connection, now)
    return total
