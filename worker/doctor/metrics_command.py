"""Prints or serves metrics for Prometheus."""

import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from functools import partial
from threading import Lock, Thread
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click
from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection, Engine

from valetkey.units import parse_duration
from valetkey.wire import BULK_QUEUE, INTERACTIVE_QUEUE
from worker import clock
from worker.audit.grant_filters import ISSUED, REFUSED, GrantFilter
from worker.audit.index_scans import batch_bounds
from worker.audit.item_counts import CountOptions, Dimension, ItemCount, count_items
from worker.base.database_engine import limit_time, snapshot_transaction
from worker.base.jobs import TurnKey, call_in_background
from worker.broker.dead_letters import count_dead_letters
from worker.broker.queues import (
    read_heartbeats,
    worker_problems,
    workers_by_queue,
)
from worker.broker.result_store import read_discard_counts, read_ignored_traces
from worker.cli.database import open_engine
from worker.cli.database_failures import database_cause, database_unusable
from worker.cli.redis_servers import open_broker, open_results
from worker.core import UPKEEP_QUEUE
from worker.doctor import backlog
from worker.doctor.checks import (
    CONFIG_DIFFERENCES,
    ENDED_SLOTS,
    EXPIRED_GRANTS,
    WORKER_PROBLEMS,
)
from worker.doctor.latency_metrics import read_histograms, read_queues, worker_info
from worker.doctor.metric_families import Family
from worker.doctor.metrics_server import check_host, serve, with_health
from worker.doctor.probe_metrics import (
    BROKER,
    RESULT_STORE,
    check_database,
    check_server,
    probe_failure,
    read_memory,
    read_probe,
)
from worker.doctor.prober import SHORT_TIMEOUT, Prober
from worker.errors import Transient
from worker.ledger.quota_usage import read_usage
from worker.ledger.rejections import sum_rejections
from worker.ledger.tenant_rows import load_config, read_tenant_names
from worker.proof.checkpoint_rows import SIGNING, read_publications, read_tree_sizes
from worker.proof.verify.config_check import find_differences
from worker.revoke.policy_document import MAX_POLICY_BYTES
from worker.revoke.revocation_rows import read_denials
from worker.rules.quota_rules import quota_statuses
from worker.settings import Settings
from worker.uses.feature import EVENTS_PREFIX, EVENTS_ROLE
from worker.uses.state_facts import count_recent_uses
from worker.webhooks.endpoint_states import read_figures, read_health
from worker.webhooks.webhook_backlog import count_pending_webhooks


def age(moment: datetime | None, now: datetime) -> float:
    """Return the seconds since a time: 0 if there is none, or if it is still to come."""
    return 0.0 if moment is None else max((now - moment).total_seconds(), 0.0)


_QUEUES = (INTERACTIVE_QUEUE, BULK_QUEUE, UPKEEP_QUEUE)
_DEAD_LETTERS = Family(
    "dead_letters", "Messages that are dead-lettered because a worker failed on them."
)
_WORKERS = Family(
    "workers",
    f"Workers with a fresh heartbeat that consume a queue. {EVENTS_ROLE} counts the queues of event"
    " notifications that are read, once for each worker.",
    ("queue",),
)


_WORKER_PROBLEMS = Family(
    "worker_problems",
    "Workers that report a problem: own_clock or server_clock (a clock is wrong), or children (they"
    " make no progress). doctor explains them.",
    ("problem",),
)
_DISCARDED = Family(
    "messages_discarded",
    "Discarded messages, by the part that is invalid; or a copy of a message that was answered, one"
    " after its deadline (expires), or one too many of a tenant (lane_full).",
    ("part",),
    "counter",
)
_TRACES_IGNORED = Family(
    "trace_headers_ignored",
    "Messages that were processed without their `traceparent` header, which was invalid.",
    type="counter",
)


def _read_results(client: Any) -> Iterator[Metric]:
    """Yield durations, the numbers of live workers and of discarded messages, and who lives."""
    yield from read_memory(client, RESULT_STORE)
    yield from read_histograms(client)
    heartbeats = read_heartbeats(client)
    yield worker_info(heartbeats)
    workers = Counter(dict.fromkeys((*_QUEUES, EVENTS_ROLE), 0))
    for queue, names in workers_by_queue(heartbeats).items():
        workers[EVENTS_ROLE if queue.startswith(EVENTS_PREFIX) else queue] += len(names)
    yield _WORKERS.samples({queue: workers[queue] for queue in (*_QUEUES, EVENTS_ROLE)})
    problems = Counter(
        code for _, code, _ in worker_problems(heartbeats) if code in WORKER_PROBLEMS
    )
    yield _WORKER_PROBLEMS.samples({code: problems[code] for code in WORKER_PROBLEMS})
    yield _DISCARDED.samples(dict(sorted(read_discard_counts(client).items())))
    yield _TRACES_IGNORED.single(read_ignored_traces(client))


_PENDING = Family("webhooks_pending", "Webhooks that are not sent yet.", ("tenant", "endpoint"))
_DUE = Family(
    "webhook_oldest_due_age_seconds",
    "Time since the longest-waiting webhook should have been attempted, 0 if none is due.",
)
_ATTEMPTS = Family(
    "webhook_attempts",
    "Attempts to deliver a webhook that called the endpoint, since the hour in which the window"
    " begins, by result: succeeded or failed.",
    ("tenant", "endpoint", "result", "window"),
)
_DISABLED = Family(
    "webhook_endpoint_disabled",
    "1 if nothing is sent to an endpoint, because it failed for days, is gone, or an operator"
    " disabled it.",
    ("tenant", "endpoint"),
)
_UNSETTLED = Family(
    "unsettled_chunks",
    "Chunks of upload slots that ended and are not settled, by bucket profile.",
    ("bucket",),
)
_MISSING = Family(
    "denials_missing",
    "Statements of revocations that are not in the policy of their bucket, by bucket profile.",
    ("bucket",),
)
_POLICY_LEFT = Family(
    "bucket_policy_free_bytes",
    "Bytes that are left of the policy of a bucket with statements of revocations.",
    ("bucket",),
)
_QUOTA_LABELS = ("tenant", "metric", "window")
_USED = Family(
    "quota_used",
    "Usage in the current window of a quota, in grants or bytes. It counts without a quota too.",
    _QUOTA_LABELS,
)
_LIMIT = Family(
    "quota_limit", "Limit of a quota with its overrides, in grants or bytes.", _QUOTA_LABELS
)
_LEAVES = Family("tree_leaves", "Leaves of the Merkle tree of a tenant's audit log.", ("tenant",))
_SIGNED = Family(
    "checkpoint_leaves", "Leaves that the newest signed checkpoint covers.", ("tenant",)
)
_SIGNED_AGE = Family(
    "checkpoint_age_seconds", "Time since the newest checkpoint was signed.", ("tenant",)
)
_REFUSED = Family(
    "checkpoint_refused",
    "1 if the head of a tenant's tree was not signed at the last attempt, because it contradicts a"
    " checkpoint or cannot be compared with any.",
    ("tenant",),
)
_REJECTIONS = Family(
    "rejections",
    "Messages of the window that could not be authenticated or parsed, or were refused without a"
    " record (not_recorded). The tenant is that which they named, if it exists.",
    ("tenant", "code", "window"),
)
_GRANTS = Family(
    "grants",
    "Grants that were issued in the window, by their state now.",
    ("tenant", "kind", "state", "window"),
)
_REFUSALS = Family(
    "refusals", "Items that were refused in the window.", ("tenant", "code", "window")
)
_USES = Family(
    "uses",
    "Recorded uses of the grants whose batch was decided in the window.",
    ("tenant", "event", "source", "verdict", "window"),
)


class Window(NamedTuple):
    """The time before now in which recent rows are counted, and the text that names it."""

    label: str
    length: timedelta


Part = Callable[[Connection, datetime, Window], Iterator[Metric]]


def _read_backlog(connection: Connection, now: datetime, _window: Window) -> Iterator[Metric]:
    yield _PENDING.samples(count_pending_webhooks(connection))
    yield _DUE.single(age(backlog.earliest_due_webhook(connection), now))
    yield _UNSETTLED.samples(backlog.count_ended_slots(connection))
    for work in (ENDED_SLOTS, EXPIRED_GRANTS):
        yield work.metric.single(age(work.since(connection), now))


def _read_endpoints(connection: Connection, now: datetime, window: Window) -> Iterator[Metric]:
    figures = read_figures(connection, now - window.length)
    yield _ATTEMPTS.samples(
        {
            (*endpoint, result, window.label): getattr(counts, result)
            for endpoint, counts in figures.items()
            for result in ("succeeded", "failed")
        }
    )
    states = read_health(connection)
    config = load_config(connection)
    yield _DISABLED.samples(
        {
            key: key in states and states[key].disabled_at is not None
            for tenant in config.tenants.values()
            for key in (TurnKey(tenant.id, name) for name in tenant.endpoints)
        }
    )


def _read_config(connection: Connection, _now: datetime, _window: Window) -> Iterator[Metric]:
    yield CONFIG_DIFFERENCES.single(len(find_differences(connection)))


def _read_denials(connection: Connection, now: datetime, _window: Window) -> Iterator[Metric]:
    denials, _ = read_denials(connection, now)
    missing = Counter(each.bucket for each in denials if each.policy_bytes is None)
    yield _MISSING.samples({each.bucket: missing[each.bucket] for each in denials})
    yield _POLICY_LEFT.samples(
        {each.bucket: MAX_POLICY_BYTES - each.policy_bytes for each in denials if each.policy_bytes}
    )


def _read_quotas(connection: Connection, now: datetime, _window: Window) -> Iterator[Metric]:
    used: dict[tuple[str, ...], float] = {}
    limits: dict[tuple[str, ...], float] = {}
    for tenant in load_config(connection).tenants.values():
        usage = read_usage(connection, tenant.id, now)
        for status in quota_statuses(tenant, usage, now, include_unlimited=True):
            key = status.tenant, status.metric, status.window
            used[key] = status.used
            if status.limit is not None:
                limits[key] = status.limit
    yield _USED.samples(used)
    yield _LIMIT.samples(limits)


def _read_trees(connection: Connection, now: datetime, _window: Window) -> Iterator[Metric]:
    trees = read_tree_sizes(connection, None)
    yield _LEAVES.samples({tree.tenant: tree.size for tree in trees})
    yield _SIGNED.samples({tree.tenant: tree.signed_size or 0 for tree in trees})
    yield _SIGNED_AGE.samples(
        {tree.tenant: age(tree.signed_at, now) for tree in trees if tree.signed_at is not None}
    )
    signings = [row for row in read_publications(connection) if row.destination == SIGNING]
    refused = {row.tenant: row.problem is not None for row in signings}
    yield _REFUSED.samples({tree.tenant: refused.get(tree.tenant, False) for tree in trees})


def _read_rejections(connection: Connection, now: datetime, window: Window) -> Iterator[Metric]:
    counts = sum_rejections(connection, now - window.length)
    yield _REJECTIONS.samples({(*group, window.label): count for group, count in counts.items()})


def _read_grants(connection: Connection, now: datetime, window: Window) -> Iterator[Metric]:
    counts = _count_recent(connection, now, window, ISSUED, ("tenant", "kind", "state"))
    yield _GRANTS.samples({group: count.issued for group, count in counts.items()})


def _read_refusals(connection: Connection, now: datetime, window: Window) -> Iterator[Metric]:
    counts = _count_recent(connection, now, window, REFUSED, ("tenant", "code"))
    yield _REFUSALS.samples({group: count.refused for group, count in counts.items()})


def _count_recent(
    connection: Connection, now: datetime, window: Window, decision: str, by: tuple[Dimension, ...]
) -> dict[tuple[str, ...], ItemCount]:
    """Count the items of a window, and add its label to each group."""
    recent = GrantFilter(since=now - window.length, decisions=(decision,), states_at=now)
    before, _ = batch_bounds(connection, recent)
    options = CountOptions(by, after_batch=before)
    counts = count_items(connection, recent, options)
    return {(*map(str, count.group), window.label): count for count in counts}


def _read_uses(connection: Connection, now: datetime, window: Window) -> Iterator[Metric]:
    counts = count_recent_uses(connection, now - window.length)
    yield _USES.samples({(*group, window.label): count for group, count in counts.items()})


PARTS: Mapping[str, Part] = {
    "backlog": _read_backlog,
    "endpoints": _read_endpoints,
    "denials": _read_denials,
    "trees": _read_trees,
    "config": _read_config,
    "quotas": _read_quotas,
    "rejections": _read_rejections,
    "refusals": _read_refusals,
    "uses": _read_uses,
    "grants": _read_grants,
}
"""The parts, the cheapest first: all of them share a limit of time."""


TIME_LIMIT = 8.0
"""The time in seconds that reading the database may take in one scrape."""

DATABASE = "database"

OnProblem = Callable[[str, click.ClickException | None, Sequence[Metric]], None]


def _merge_families(metrics: Iterable[Metric]) -> list[Metric]:
    """Join the samples of families that several services have: a scrape has each family once."""
    families: dict[str, Metric] = {}
    for metric in metrics:
        if metric.name in families:
            families[metric.name].samples += metric.samples
        else:
            families[metric.name] = metric
    return list(families.values())


SILENCE_LIMIT = 12.0
"""The time in seconds after which a scrape no longer waits for the database."""


_UP = {
    service: Family(
        f"{service}_up",
        f"1 if the {service.replace('_', ' ')} can be read and written, else 0; stderr of `metrics`"
        " has the reason, and what cannot be read is missing.",
    )
    for service in (DATABASE, BROKER, RESULT_STORE)
}


class _Reading:
    """Reads in a thread of its own, as no limit of a frozen server ends its queries."""

    def __init__(self) -> None:
        self._result: Future[list[Metric]] | None = None

    def read(self, read: Callable[[], list[Metric]]) -> list[Metric]:
        """Return what is read. Raises TimeoutError late, or while the last reading still runs."""
        if self._result is not None and not self._result.done():
            return self._result.result(0)
        self._result = call_in_background(read)
        return self._result.result(SILENCE_LIMIT)


class ServiceCollector(Collector):
    """Reads the metrics once at a time. Scrapes that wait meanwhile share the next reading.

    on_problem is called with the name of each service that the metrics are read from, why it cannot
    be used, or None, and what could be read. Unless it raises an exception, the scrape continues.
    """

    def __init__(self, window: Window, on_problem: OnProblem, prober: Prober) -> None:
        self._window = window
        self._on_problem = on_problem
        self._prober = prober
        self._lock = Lock()
        self._metrics: list[Metric] = []
        self._read_at = float("-inf")
        self._reading = _Reading()
        self._tenants: Collection[str] = ()
        """The configured tenants, as last read."""

    def collect(self) -> list[Metric]:
        """Return all metrics that can be read."""
        arrived_at = time.monotonic()
        with self._lock:
            if self._read_at < arrived_at:  # else slow readings would queue up
                read_at = time.monotonic()
                self._metrics, self._read_at = self._read_all(), read_at
            return self._metrics

    def _read_all(self) -> list[Metric]:
        self._on_problem("workers", probe_failure(self._prober), ())
        can_write = partial(check_database, prober=self._prober)
        broker_works = partial(check_server, prober=self._prober, part=BROKER)
        results_work = partial(check_server, prober=self._prober, part=RESULT_STORE)
        return _merge_families(
            [
                *read_probe(self._prober),
                *self._read_silent_database(can_write),
                *self._read(BROKER, open_broker, self._read_broker, broker_works),
                *self._read(RESULT_STORE, open_results, _read_results, results_work),
            ]
        )

    def _read(
        self,
        service: str,
        open_service: Callable[[], AbstractContextManager[Any]],
        read: Callable[[Any], Iterator[Metric]],
        check: Callable[[Any], None],
    ) -> list[Metric]:
        metrics: list[Metric] = []
        problem = None
        try:
            with open_service() as opened:
                metrics = list(read(opened))
                check(opened)
        except click.ClickException as error:
            problem = error
        self._on_problem(service, problem, metrics)
        return [_UP[service].single(problem is None), *metrics]

    def _read_silent_database(self, check: Callable[[Any], None]) -> list[Metric]:
        """Read the database, but do not wait for one that does not respond."""
        read = partial(self._read, DATABASE, open_engine, self._read_database, check)
        try:
            return self._reading.read(read)
        except TimeoutError as error:
            url = Settings().database_url.get_secret_value()
            problem = database_unusable(database_cause(error), url)
            self._on_problem(DATABASE, problem, ())
            return [_UP[DATABASE].single(False)]

    def _read_broker(self, client: Any) -> Iterator[Metric]:
        yield from read_memory(client, BROKER)
        yield from read_queues(client, self._tenants)
        yield _DEAD_LETTERS.single(count_dead_letters(client))

    def _read_database(self, engine: Engine) -> Iterator[Metric]:
        with snapshot_transaction(engine) as connection:
            self._tenants = read_tenant_names(connection)
        now, end = clock.now(), time.monotonic() + TIME_LIMIT
        complete = dict.fromkeys(PARTS, 0)
        for name, read in PARTS.items():
            if time.monotonic() >= end:
                break
            try:
                with snapshot_transaction(engine) as connection, limit_time(connection, end):
                    metrics = list(read(connection, now, self._window))
            except Transient:
                if time.monotonic() < end:
                    raise
            else:
                complete[name] = 1
                yield from metrics
        yield _COMPLETE.samples(complete)


_COMPLETE = Family(
    "scrape_complete",
    f"1 if a part of the database's metrics was read, 0 if {TIME_LIMIT:g} seconds were too short.",
    ("part",),
)


_LONGEST_WINDOW = timedelta(days=7)


def _parse_address(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> tuple[str, int] | None:
    if text is None:
        return None
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # sockets raise more than OSError for a name that is none
    except ValueError:
        host = port = None
    if not host or port is None or not set("@/?# \t\n").isdisjoint(text):
        raise click.BadParameter(
            f"write HOST:PORT, like 127.0.0.1:9109 or [::1]:9109, not {text!r}"
        )
    return host, port


def _parse_hosts(
    _context: click.Context, _option: click.Parameter, names: tuple[str, ...]
) -> tuple[str, ...]:
    for name in names:
        if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
            raise click.BadParameter(
                f"write a host name without scheme, port and path, not {name!r}"
            )
    return names


def _parse_window(_context: click.Context, _option: click.Parameter, text: str) -> Window:
    try:
        length = timedelta(seconds=parse_duration(text))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if not timedelta(0) < length <= _LONGEST_WINDOW:
        raise click.BadParameter("it is longer than 0 and at most 7d")
    label = "".join(text.split())
    return Window(f"{label}s" if label.isdecimal() else label, length)


@click.command()
@click.option(
    "--listen",
    "address",
    metavar="HOST:PORT",
    callback=_parse_address,
    help="Serve the metrics by HTTP at /metrics, until SIGTERM or Ctrl-C. Port 0 takes a free one.",
)
@click.option(
    "--allow-host",
    "names",
    multiple=True,
    callback=_parse_hosts,
    metavar="NAME",
    help="A name under which Prometheus reaches the server; repeatable. IP addresses, localhost and"
    " the host of --listen are always accepted.",
)
@click.option(
    "--window",
    metavar="DURATION",
    default="24h",
    show_default=True,
    callback=_parse_window,
    help="Count recent grants, refusals, uses and rejections in this time before now.",
)
def metrics(*, address: tuple[str, int] | None, names: tuple[str, ...], window: Window) -> None:
    """Print metrics of the service for Prometheus, or serve them.

    They are read from the database, the broker and the result store at each scrape: states and uses
    of recent grants, refusals, quotas, queues, and work that is overdue. Labels have names of
    tenants, buckets and endpoints, but no object keys, ids or links. The server has neither TLS nor
    a password: let it listen where only Prometheus can connect. A request with an unknown Host gets
    421 and no content.

    A probe that takes the way of a request shows whether the service works: one is sent, with
    --listen each 15 seconds. It grants nothing.

    Without --listen, exits with 1 if the database cannot be read. A server continues, and
    reports it in valetkey_database_up. docs/reference/metrics.md lists the metrics.

    \b
    Examples:
      python -m worker metrics
      python -m worker metrics --listen 127.0.0.1:9109
    """
    if names and address is None:
        raise click.UsageError("--allow-host needs --listen.")
    Settings()  # invalid ones end the command here, and no scrape
    registry = CollectorRegistry()
    prober = Prober()
    registry.register(ServiceCollector(window, _Problems(ends=address is None), prober))
    if address is None:
        prober.probe(SHORT_TIMEOUT)
        click.echo(generate_latest(registry), nl=False)
    else:
        Thread(target=prober.run, name="prober", daemon=True).start()
        serve(*address, check_host(with_health(make_wsgi_app(registry)), (address[0], *names)))


class _Problems:
    """Writes to stderr that a service cannot be used, once as long as the reason stays the same."""

    def __init__(self, *, ends: bool) -> None:
        self._ends = ends
        self._last: dict[str, str] = {}

    def __call__(
        self, service: str, problem: click.ClickException | None, metrics: Sequence[Metric]
    ) -> None:
        if problem is not None and self._ends and service == DATABASE and not metrics:
            raise problem
        text = "" if problem is None else problem.format_message()
        if text != self._last.get(service, ""):
            click.echo(text or f"The {service.replace('_', ' ')} can be used again.", err=True)
        self._last[service] = text
