"""The checks of `doctor` that contact the broker and the result store."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import starmap
from typing import Any, TypeVar

from redis.exceptions import OutOfMemoryError

from valetkey.redis_urls import redact_url
from valetkey.wire import BULK_QUEUE, INTERACTIVE_QUEUE
from valetkey.wire.waiting import WAITING_LANES
from worker.broker.queues import SHARING_LEASE, Heartbeat
from worker.cli.redis_servers import (
    MemoryUsage,
    open_broker,
    open_results,
    read_server_facts,
    redis_unusable,
)
from worker.cli.service_failures import ServiceUnusable
from worker.core import UPKEEP_QUEUE
from worker.doctor.checks import attempt, check_worker, failed
from worker.doctor.dead_letter_list import count_dead_letters
from worker.doctor.discard_counts import read_discard_counts
from worker.doctor.prober import NO_WORKER, SHORT_TIMEOUT, ProbeReport, send_probe
from worker.settings import Settings
from worker.shared.monitoring import Check, State
from worker.shared.worker_states import (
    queue_lengths,
    read_heartbeats,
    worker_problems,
    workers_by_queue,
)

Open = Callable[[], AbstractContextManager[Any]]
Value = TypeVar("Value")


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
        yield attempt("queues", broker_unusable, _reading(open_broker, _read_queues))
    if has_results:
        yield from _worker_checks(results_unusable)
    if has_results and has_broker:
        yield attempt("messages", broker_unusable, _read_message_check)
    if not any(check.state == "fail" for check in (*results, *broker)):
        yield from check_probe(send_probe(SHORT_TIMEOUT))


def check_probe(report: ProbeReport) -> Iterator[Check]:
    """Check the response to a probe. If no worker is alive, another check reports that."""
    if report.problems.get("worker") == NO_WORKER:
        return
    if report.seconds is not None and not report.problems:
        yield Check("probe", "ok", f"answered in {report.seconds * 1_000:.0f} ms")
    for part, problem in report.problems.items():
        yield Check("probe", "fail", f"{part}: {problem}")


def _server_checks(
    name: str, open_server: Open, url: str, unusable: Callable[[BaseException], ServiceUnusable]
) -> Iterator[Check]:
    facts = attempt(name, unusable, _reading(open_server, read_server_facts))
    if isinstance(facts, Check):
        yield facts
        return
    yield Check(name, "ok", f"reachable at {redact_url(url)}")
    if facts.is_full:
        yield failed(name, unusable(OutOfMemoryError()))
    yield from check_eviction(name, facts.eviction_policy)
    yield from check_memory_limit(name, facts.memory)


def _worker_checks(unusable: Callable[[BaseException], ServiceUnusable]) -> Iterator[Check]:
    heartbeats = attempt("workers", unusable, _reading(open_results, read_heartbeats))
    if isinstance(heartbeats, Check):
        yield heartbeats
        return
    yield from check_consumers(workers_by_queue(heartbeats))
    yield from starmap(check_worker, worker_problems(heartbeats))
    yield from check_releases(heartbeats)


_NOT_ISSUED = "requests wait there, and time out"
_CONSUMERS: tuple[tuple[str, str, State, str], ...] = (
    (INTERACTIVE_QUEUE, "issue", "fail", _NOT_ISSUED),
    (BULK_QUEUE, "issue", "fail", _NOT_ISSUED),
    (UPKEEP_QUEUE, "upkeep", "warn", "webhooks, manifests and expired grants wait"),
)


def check_consumers(consumers: Mapping[str, Sequence[str]]) -> Iterator[Check]:
    """Check that each queue has a worker. consumers are names of workers by queue.

    Without an issuing worker every request times out, which is a failure. Without an upkeep worker
    grants are issued, and what waits is made up for when one starts: that is a warning, until
    check_cleanup finds work that is overdue.
    """
    for queue, role, state, effect in _CONSUMERS:
        workers = consumers.get(queue, ())
        if workers:
            yield Check("workers", "ok", f"{queue} is consumed by {', '.join(sorted(workers))}")
        else:
            hint = f"python -m worker run --only {role}"
            text = f"no worker is alive that consumes the queue {queue}: {effect}"
            yield Check("workers", state, text, hint)


_RELEASE = re.compile(r"(\d{1,9})\.(\d{1,9})\.\d")


def check_releases(heartbeats: Iterable[Heartbeat]) -> Iterator[Check]:
    """Warn of live workers whose releases are not tested together: see docs/compatibility.md."""
    workers: defaultdict[str, set[str]] = defaultdict(set)
    for each in heartbeats:
        workers[each.release or "an unknown release"].add(each.worker)
    if len(workers) > 1 and not _follow_each_other(*workers):
        names = (f"{each} on {', '.join(sorted(workers[each]))}" for each in sorted(workers))
        text = f"releases that are not tested together: {'; '.join(names)}"
        hint = "run one release, or two that follow each other: docs/compatibility.md"
        yield Check("workers", "warn", text, hint)


def _follow_each_other(*releases: str) -> bool:
    match [_RELEASE.match(release) for release in releases]:
        case [re.Match() as one, re.Match() as other]:
            return one[1] == other[1] and abs(int(one[2]) - int(other[2])) <= 1
    return False


def check_eviction(server: str, policy: str | None) -> Iterator[Check]:
    """Warn of a server that drops keys when its memory is full. policy is None if unknown."""
    if policy not in {None, "noeviction"}:
        lost = "requests" if server == "broker" else "results"
        text = f"maxmemory-policy is {policy}: a full server drops waiting {lost}"
        yield Check(server, "warn", text, "set maxmemory-policy noeviction in the server's config")


def check_memory_limit(server: str, memory: MemoryUsage | None) -> Iterator[Check]:
    """Warn of a server that takes memory until the system kills it. memory is None if unknown."""
    if memory is not None and not memory.limit:
        text = "maxmemory is 0, no limit: when its machine has no memory left, the server is killed"
        hint = "set maxmemory in the server's config to about half of the memory of its machine"
        yield Check(server, "warn", text, hint)


def check_queues(lengths: Mapping[str, int], *, is_served: bool) -> Check:
    """Fail if messages wait for their turn and no process serves them.

    lengths are those of the queues and of the lanes, by key.
    """
    text = ", ".join(f"{length:,} messages in {key}" for key, length in lengths.items())
    waiting = sum(length for key, length in lengths.items() if key.startswith(f"{WAITING_LANES}:"))
    if is_served or not waiting:
        return Check("queues", "ok", text)
    text = f"{waiting:,} messages wait for their turn, and no process serves them"
    hint = "restart the `run` that hangs, or start another: python -m worker run --only issue"
    return Check("queues", "fail", text, hint)


def check_messages(discarded: Mapping[str, int], dead_letters: int) -> Check:
    """Warn of messages on which a worker failed. discarded counts messages by their invalid part.

    Discarded messages are the fault of their senders, so they alone are no warning.
    """
    counts = ", ".join(f"{count:,} for {part}" for part, count in sorted(discarded.items()))
    text = f"discarded so far: {counts}" if counts else "none was discarded"
    if not dead_letters:
        return Check("messages", "ok", text)
    text = f"{dead_letters} dead-lettered: a worker failed on them, or has no such task; {text}"
    return Check("messages", "warn", text, "python -m worker deadletters list")


def _reading(open_server: Open, read: Callable[[Any], Value]) -> Callable[[], Value]:
    def call() -> Value:
        with open_server() as client:
            return read(client)

    return call


def _read_queues(client: Any) -> Check:
    return check_queues(queue_lengths(client), is_served=client.pttl(SHARING_LEASE) >= 0)


def _read_message_check() -> Check:
    with open_results() as client:
        discarded = read_discard_counts(client)
    with open_broker() as client:
        return check_messages(discarded, count_dead_letters(client))
