"""Ends the deliveries, endpoint states and listeners whose time is over."""

from functools import partial

from worker.base.database_engine import write_transaction
from worker.base.jobs import JobRun
from worker.context import Context
from worker.issue.cleanup import clean_in_turns
from worker.webhooks.endpoint_states import delete_old_states
from worker.webhooks.listeners import delete_expired_listeners
from worker.webhooks.outbox import fail_expired_deliveries
from worker.webhooks.webhook_events import EXPIRED


def clean_up_webhooks(context: Context, run: JobRun | None = None) -> dict[str, int]:
    """Fail deliveries that have expired, and delete old states and listeners.

    Any number of processes may do this at once. Returns counts. Raises Transient.
    """
    fail = partial(fail_expired_deliveries, problem=EXPIRED)
    undelivered = clean_in_turns(context, run or JobRun(), fail)
    config = context.config.current()
    with write_transaction(context.engine) as connection:
        delete_old_states(connection, config, context.now())
        delete_expired_listeners(connection, context.now())
    return {"undelivered": undelivered}
