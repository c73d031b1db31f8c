"""The checks and metrics of uses: queues of events, slots that wait to be settled, and counts."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from datetime import datetime, timedelta

import redis
from prometheus_client.core import Metric
from sqlalchemy import Connection, func, select

from models import Batch, EndedSlot, Use
from worker.cli.redis_servers import open_results
from worker.cli.service_failures import ServiceUnusable
from worker.errors import Transient
from worker.rules.tenant_config import Bucket, TenantConfig
from worker.shared.monitoring import Check, Family, WaitingWork, Window, age, check_waiting
from worker.shared.threads import call_with_timeout
from worker.shared.worker_states import read_heartbeats, workers_by_queue
from worker.uses.events.event_queues import (
    NOT_SQS,
    EventQueue,
    QueueUnusable,
    event_queues,
    queue_id,
    queue_name,
)
from worker.uses.feature import EVENTS_PREFIX, EVENTS_ROLE
from worker.uses.use_reports import SECOND_LOOK

_IS_UNSETTLED = EndedSlot.is_settled.is_(False)


def oldest_ended_slot(connection: Connection) -> datetime | None:
    """Return since when upload slots wait to be settled, or for a second look; None if none do."""
    ended = select(func.min(EndedSlot.ended_at))
    unsettled = connection.scalar(ended.where(_IS_UNSETTLED))
    settled = connection.scalar(ended.where(~_IS_UNSETTLED))
    looks = [unsettled, settled and settled + SECOND_LOOK]
    return min(filter(None, looks), default=None)


def count_ended_slots(connection: Connection) -> dict[str, int]:
    """Count the chunks of upload slots that ended and are not settled, by bucket profile."""
    query = select(EndedSlot.bucket, func.count()).where(_IS_UNSETTLED).group_by(EndedSlot.bucket)
    return {row[0]: row[1] for row in connection.execute(query)}


ENDED_SLOTS = WaitingWork(
    "settlements",
    oldest_ended_slot,
    timedelta(days=1),  # storage may be unreachable for hours
    "upload slots that ended are settled",
    "upload slots have waited {age} for storage, to be settled or for the second look",
    "the log of the upkeep worker has the reason, as settlement_postponed",
    metric=Family(
        "unsettled_oldest_age_seconds",
        "Time for which ended upload slots wait to be settled or looked at again, 0 if none do.",
    ),
)


def database_checks(
    connection: Connection,
    config: TenantConfig,  # noqa: ARG001 - as other features are called
    now: datetime,
) -> Iterator[Check]:
    """Check that upload slots which ended are settled."""
    yield check_waiting(ENDED_SLOTS, ENDED_SLOTS.since(connection), now)


_MAY_NOT_READ = "allow it to the workers' credentials: python -m worker permissions iam"
_NO_QUEUE = "create the queue, or correct events_queue"
_EVENTS_HINTS = {
    "AccessDenied": _MAY_NOT_READ,
    "AccessDeniedException": _MAY_NOT_READ,
    "AWS.SimpleQueueService.NonExistentQueue": _NO_QUEUE,
    "QueueDoesNotExist": _NO_QUEUE,
    NOT_SQS: "another server answers there: correct events_queue, or the proxy of the workers",
}
_EVENTS_HINT = (
    "correct events_queue in the tenants file, or the credentials and network of the workers"
)
_SECONDS = 5.0  # that a queue has to answer


def service_checks(config: TenantConfig, *, offline: bool) -> Iterator[Check]:
    """Check that each queue of events can be used, and that a worker reads it."""
    queues = list(event_queues(list(config.buckets.values())))
    if not queues:
        return
    if not offline:
        for url, bucket in queues:
            yield _check_events_queue(url, bucket)
    yield from check_readers(queues, _read_names())


def _check_events_queue(url: str, bucket: Bucket) -> Check:
    name = f"{bucket.name}: the queue {queue_name(url)}"
    try:
        waiting = call_with_timeout(_SECONDS, lambda: _count_events(url, bucket))
    except QueueUnusable as error:
        text = f"{name} cannot be used: {error.code}"
        return Check("events", "fail", text, _EVENTS_HINTS.get(error.code, _EVENTS_HINT))
    except (Transient, TimeoutError) as error:
        return Check(
            "events", "fail", f"{name} does not answer: {str(error) or 'in time'}", _EVENTS_HINT
        )
    return Check("events", "ok", f"{name} can be used; {waiting:,} messages wait")


def _count_events(url: str, bucket: Bucket) -> int:
    with closing(EventQueue(url, bucket)) as queue:
        return queue.count_messages()


def _read_names() -> Collection[str] | None:
    try:
        with open_results() as client:
            return workers_by_queue(read_heartbeats(client))
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


_UNSETTLED = Family(
    "unsettled_chunks",
    "Chunks of upload slots that ended and are not settled, by bucket profile.",
    ("bucket",),
)
_USES = Family(
    "uses",
    "Recorded uses of the grants whose batch was decided in the window.",
    ("tenant", "event", "source", "verdict", "window"),
)


def read_backlog(connection: Connection, now: datetime, _window: Window) -> Iterator[Metric]:
    """Yield how many chunks of upload slots wait to be settled, and for how long."""
    yield _UNSETTLED.samples(count_ended_slots(connection))
    yield ENDED_SLOTS.metric.single(age(ENDED_SLOTS.since(connection), now))


def read_uses(connection: Connection, now: datetime, window: Window) -> Iterator[Metric]:
    """Yield the recorded uses of recent grants."""
    # No index has the times of uses. That of batches leads to them.
    columns = Use.tenant, Use.event, Use.source, Use.verdict
    query = (
        select(*columns, func.count())
        .join(Batch, Batch.batch_number == Use.batch_number)
        .where(Batch.decided_at >= now - window.length)
        .group_by(*columns)
    )
    counts = {(*row[:4], window.label): row[4] for row in connection.execute(query)}
    yield _USES.samples(counts)
