"""The checks of `doctor` that contact the broker and the result store."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from redis.exceptions import OutOfMemoryError

from valetkey.config import redact_url
from worker.broker.dead_letters import count_dead_letters
from worker.broker.discards import read_discard_counts
from worker.broker.heartbeats import workers_by_queue
from worker.broker.sharing.queue_lengths import LEASE, queue_lengths
from worker.commands.broker import ServerFacts, open_broker, open_results, read_server_facts
from worker.commands.failures.cause import ServiceUnusable
from worker.commands.failures.redis_failures import redis_unusable
from worker.commands.health.attempts import attempt, failed
from worker.commands.health.checks import (
    Check,
    check_consumers,
    check_eviction,
    check_messages,
    check_queues,
)
from worker.settings import Settings

Open = Callable[[], AbstractContextManager[Any]]


def broker_checks(settings: Settings) -> Iterator[Check]:
    """Check the servers of queues and results, the queues, the workers and what they discarded."""
    result_url = settings.result_url.get_secret_value()
    broker_url = settings.broker_url.get_secret_value()
    results_unusable = _unusable("VALETKEY_RESULT_URL", result_url)
    broker_unusable = _unusable("VALETKEY_BROKER_URL", broker_url)
    has_results = has_broker = False
    for check in _server_checks("results", open_results, result_url, results_unusable):
        has_results |= check.state == "ok"
        yield check
    for check in _server_checks("broker", open_broker, broker_url, broker_unusable):
        has_broker |= check.state == "ok"
        yield check
    if has_broker:
        yield attempt("queues", broker_unusable, _read_queue_check)
    if has_results:
        yield from _worker_checks(results_unusable)
    if has_results and has_broker:
        yield attempt("messages", broker_unusable, _read_message_check)


def _unusable(variable: str, url: str) -> Callable[[BaseException], ServiceUnusable]:
    return partial(redis_unusable, variable=variable, url=url)


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
        return check_queues(queue_lengths(client), is_served=client.pttl(LEASE) >= 0)


def _read_message_check() -> Check:
    with open_results() as client:
        discarded = read_discard_counts(client)
    with open_broker() as client:
        return check_messages(discarded, count_dead_letters(client))
