"""Reports messages that the guard discards: in the log, in a counter, and to their senders."""

import re
from typing import Any

import redis
import structlog
from celery import Celery
from celery.exceptions import BackendError
from kombu.exceptions import KombuError

from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.replies import Outcome
from worker.broker.headers import InvalidMessage

COUNTER = "valetkey.discarded"
_STORE_ERRORS = (redis.RedisError, BackendError, KombuError, OSError)

log = structlog.get_logger()


class MessageSetAside(Exception):
    """A worker process ended while it had this message. Send the request again."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


def report_discard(error: InvalidMessage, queue: str, app: Celery) -> None:
    """Log and count a discarded message, and store a refusal for its sender if its id is known.

    Nothing of the message's content is logged or counted.
    """
    log.warning("message_discarded", part=error.part, queue=queue, task=error.task_id)
    try:
        app.backend.client.hincrby(COUNTER, error.part, 1)
        if error.task_id is not None:
            app.backend.store_result(error.task_id, _refusal_values(error.part), "SUCCESS")
    except _STORE_ERRORS as failure:
        log.warning("discard_not_reported", problem=type(failure).__name__)


def report_failure(task_id: str, app: Celery) -> None:
    """Fail the task of a message that is set aside, so that its sender waits no longer."""
    try:
        app.backend.store_result(task_id, MessageSetAside(), "FAILURE")
    except _STORE_ERRORS as failure:
        log.warning("failure_not_reported", problem=type(failure).__name__)


def read_discard_counts(client: Any) -> dict[str, int]:
    """Return the number of discarded messages, by their invalid part.

    Others can write there, too: what is no count is left out.
    """
    counts = client.hgetall(COUNTER)
    return {
        part.decode(): int(count)
        for part, count in counts.items()
        if part.isascii() and re.fullmatch(rb"[0-9]{1,18}", count)
    }


def _refusal_values(part: str) -> dict[str, Any]:
    refusal = Refusal(
        code=Code.MESSAGE_INVALID,
        field=part,
        message="this part of the Celery message is missing, too large, or not one that the "
        "service accepts: see docs/contract.md",
    )
    outcome = Outcome(batch="", chunk=0, status="refused", refusal=refusal)
    return outcome.model_dump(mode="json", exclude_none=True)
