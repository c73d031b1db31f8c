"""The checks of `doctor` that contact the broker, the result store and queues of events."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, closing
from functools import partial
from typing import Any

import redis
from redis.exceptions import OutOfMemoryError

from valetkey.config import redact_url
from worker.aws.event_queues import (
    NOT_SQS,
    EventQueue,
    QueueUnusable,
    event_queues,
    queue_id,
    queue_name,
)
from worker.base.jobs import call_with_timeout
from worker.broker.dead_letters import count_dead_letters
from worker.broker.queues import (
    EVENTS_PREFIX,
    EVENTS_ROLE,
    SHARING_LEASE,
    queue_lengths,
    workers_by_queue,
)
from worker.broker.result_store import read_discard_counts
from worker.cli.redis_servers import (
    ServerFacts,
    open_broker,
    open_results,
    read_server_facts,
    redis_unusable,
)
from worker.cli.service_failures import ServiceUnusable
from worker.core.tenant_config import Bucket, TenantConfig
from worker.doctor.health_checks import (
    CHECK_TIMEOUT,
    Check,
    attempt,
    check_consumers,
    check_eviction,
    check_messages,
    check_queues,
    failed,
)
from worker.errors import Transient
from worker.settings import Settings

Open = Callable[[], AbstractContextManager[Any]]


def broker_checks(settings: Settings) -> Iterator[Check]:
    """Check the servers of queues and results, the queues, the workers and what they discarded."""
    result_url = settings.result_url.get_secret_value()
    broker_url = settings.broker_url.get_secret_value()
    results_unusable = partial(redis_unusable, variable="VALETKEY_RESULT_URL", url=result_url)
    broker_unusable = partial(redis_unusable, variable="VALETKEY_BROKER_URL", url=broker_url)
    results = list(_server_checks("results", open_results, result_url, results_unusable))
    yield from results
    broker = list(_server_checks("broker", open_broker, broker_url, broker_unusable))
    yield from broker
    has_results, has_broker = (checks[0].state == "ok" for checks in (results, broker))
    if has_broker:
        yield attempt("queues", broker_unusable, _read_queue_check)
    if has_results:
        yield from _worker_checks(results_unusable)
    if has_results and has_broker:
        yield attempt("messages", broker_unusable, _read_message_check)


def _server_checks(
    name: str, open_server: Open, url: str, unusable: Callable[[BaseException], ServiceUnusable]
) -> Iterator[Check]:
    def read() -> ServerFacts:
        with open_server() as client:
            return read_server_facts(client)

    facts = attempt(name, unusable, read)
    if isinstance(facts, Check):
        yield facts
        return
    yield Check(name, "ok", f"reachable at {redact_url(url)}")
    if facts.is_full:
        yield failed(name, unusable(OutOfMemoryError()))
    yield from check_eviction(name, facts.eviction_policy)


def _worker_checks(unusable: Callable[[BaseException], ServiceUnusable]) -> Iterator[Check]:
    def read() -> dict[str, list[str]]:
        with open_results() as client:
            return workers_by_queue(client)

    consumers = attempt("workers", unusable, read)
    yield from [consumers] if isinstance(consumers, Check) else check_consumers(consumers)


def _read_queue_check() -> Check:
    with open_broker() as client:
        return check_queues(queue_lengths(client), is_served=client.pttl(SHARING_LEASE) >= 0)


def _read_message_check() -> Check:
    with open_results() as client:
        discarded = read_discard_counts(client)
    with open_broker() as client:
        return check_messages(discarded, count_dead_letters(client))


_MAY_NOT_READ = "allow the credentials to receive and delete messages: docs/usage.md, Events"
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


def event_checks(config: TenantConfig, *, offline: bool) -> Iterator[Check]:
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
        waiting = call_with_timeout(CHECK_TIMEOUT, lambda: _count_events(url, bucket))
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
