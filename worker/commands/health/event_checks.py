"""The checks of `doctor` on the queues of event notifications and their workers."""

from collections.abc import Collection, Iterable, Iterator

import redis

from worker.aws.event_queues import (
    NOT_SQS,
    EventQueue,
    QueueUnusable,
    event_queues,
    queue_id,
    queue_name,
)
from worker.broker.heartbeats import workers_by_queue
from worker.broker.queues import EVENTS_PREFIX, EVENTS_ROLE
from worker.commands.broker import open_results
from worker.commands.failures.cause import ServiceUnusable
from worker.commands.health.attempts import CHECK_TIMEOUT
from worker.commands.health.checks import Check
from worker.core.tenants.config import Bucket, TenantConfig
from worker.errors import Transient
from worker.jobs.timeouts import call_with_timeout

_HINTS = {
    "AccessDenied": "allow the credentials to receive and delete messages: docs/usage.md, Events",
    "AccessDeniedException": "allow the credentials to receive and delete messages:"
    " docs/usage.md, Events",
    "AWS.SimpleQueueService.NonExistentQueue": "create the queue, or correct events_queue",
    "QueueDoesNotExist": "create the queue, or correct events_queue",
    NOT_SQS: "another server answers there: correct events_queue, or the proxy of the workers",
}
_HINT = "correct events_queue in the tenants file, or the credentials and network of the workers"


def event_checks(config: TenantConfig, *, offline: bool) -> Iterator[Check]:
    """Check that each queue of events can be used, and that a worker reads it."""
    queues = list(event_queues(list(config.buckets.values())))
    if not queues:
        return
    if not offline:
        for url, bucket in queues:
            yield _check_queue(url, bucket)
    yield from check_readers(queues, _read_names())


def _check_queue(url: str, bucket: Bucket) -> Check:
    name = f"{bucket.name}: the queue {queue_name(url)}"
    try:
        waiting = call_with_timeout(CHECK_TIMEOUT, lambda: _count(url, bucket))
    except QueueUnusable as error:
        text = f"{name} cannot be used: {error.code}"
        return Check("events", "fail", text, _HINTS.get(error.code, _HINT))
    except (Transient, TimeoutError) as error:
        return Check("events", "fail", f"{name} does not answer: {str(error) or 'in time'}", _HINT)
    return Check("events", "ok", f"{name} can be used; {waiting:,} messages wait")


def _count(url: str, bucket: Bucket) -> int:
    queue = EventQueue(url, bucket)
    try:
        return queue.count_messages()
    finally:
        queue.close()


def _read_names() -> Collection[str] | None:
    try:
        with open_results() as client:
            return workers_by_queue(client).keys()
    except (ServiceUnusable, redis.RedisError, OSError):
        return None  # another check reports it


def check_readers(
    queues: Iterable[tuple[str, Bucket]], read: Collection[str] | None
) -> Iterator[Check]:
    """Warn of queues, with their URLs, that no worker reads. read is None if that is unknown."""
    for url, bucket in queues:
        if read is None or f"{EVENTS_PREFIX}{queue_id(url)}" in read:
            continue
        text = f"{bucket.name}: no worker reads the queue {queue_name(url)}: its events wait"
        yield Check("events", "warn", text, f"python -m worker run --only {EVENTS_ROLE}")
