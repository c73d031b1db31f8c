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
from typing import Any
from urllib.parse import urlsplit

import click
from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection, Engine, select

from models import Tenant
from valetkey.units import parse_duration
from valetkey.wire import BULK_QUEUE, INTERACTIVE_QUEUE
from worker import clock
from worker.base.database_engine import snapshot_transaction
from worker.cli.database import open_engine
from worker.cli.database_failures import database_cause, database_unusable
from worker.cli.redis_servers import open_broker, open_results
from worker.core import UPKEEP_QUEUE
from worker.doctor.checks import WORKER_PROBLEMS, place_of
from worker.doctor.dead_letter_list import count_dead_letters
from worker.doctor.discard_counts import read_discard_counts, read_ignored_traces
from worker.doctor.latency_metrics import read_histograms, read_queues, worker_info
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
from worker.doctor.query_limits import limit_time
from worker.errors import Transient
from worker.features import ROLES, contributions, resolve
from worker.settings import Settings
from worker.shared.monitoring import Family, Window
from worker.shared.threads import call_in_background
from worker.shared.worker_states import read_heartbeats, worker_problems, workers_by_queue

_QUEUES = (INTERACTIVE_QUEUE, BULK_QUEUE, UPKEEP_QUEUE)
_DEAD_LETTERS = Family(
    "dead_letters", "Messages that are dead-lettered because a worker failed on them."
)
_WORKERS = Family(
    "workers",
    "Workers with a fresh heartbeat that consume a queue. The name of a role, like events, counts"
    " the queues that it reads, once for each worker.",
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
    workers = Counter(dict.fromkeys((*_QUEUES, *ROLES), 0))
    for queue, names in workers_by_queue(heartbeats).items():
        role = queue.partition(":")[0]
        workers[role if role in ROLES else queue] += len(names)
    yield _WORKERS.samples({queue: workers[queue] for queue in (*_QUEUES, *ROLES)})
    problems = Counter(
        code for _, code, _ in worker_problems(heartbeats) if code in WORKER_PROBLEMS
    )
    yield _WORKER_PROBLEMS.samples({code: problems[code] for code in WORKER_PROBLEMS})
    yield _DISCARDED.samples(dict(sorted(read_discard_counts(client).items())))
    yield _TRACES_IGNORED.single(read_ignored_traces(client))


Part = Callable[[Connection, datetime, Window], Iterator[Metric]]

PARTS: Mapping[str, Part] = {
    words.partition(" ")[2]: resolve(reference)
    for words, reference in sorted(contributions("metrics").items())
}
"""What features read from the database, the cheapest first."""


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
            except Exception as error:  # noqa: BLE001 - the defect of one part hides no other
                text = f"the {name} cannot be read: {place_of(error)}"
                self._on_problem(name, click.ClickException(text), ())
            else:
                complete[name] = 1
                self._on_problem(name, None, metrics)
                yield from metrics
        yield _COMPLETE.samples(complete)


_COMPLETE = Family(
    "scrape_complete",
    "1 if a part of the database's metrics was read, 0 if it failed or"
    f" {TIME_LIMIT:g} seconds were too short.",
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


def read_tenant_names(connection: Connection) -> list[str]:
    """Return the names of all tenants."""
    return list(connection.scalars(select(Tenant.name)))
