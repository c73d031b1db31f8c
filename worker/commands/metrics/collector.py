"""Reads all metrics of the service at each scrape."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from threading import Lock
from typing import Any, NamedTuple

import click
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine

from worker import clock
from worker.commands.broker import open_broker, open_results
from worker.commands.database import open_engine
from worker.commands.metrics.broker_metrics import read_broker, read_results
from worker.commands.metrics.database_metrics import PARTS, Window
from worker.commands.metrics.families import Family
from worker.db.engine import read_transaction
from worker.db.time_limit import limit_time
from worker.errors import Transient

TIME_LIMIT = 8.0
"""The time in seconds that reading the database may take in one scrape."""

DATABASE = "database"

OnProblem = Callable[[str, click.ClickException | None], None]


class _Service(NamedTuple):
    name: str
    open: Callable[[], AbstractContextManager[Any]]
    read: Callable[[Any], Iterator[Metric]]


class ServiceCollector(Collector):
    """Reads the metrics once at a time. Scrapes that wait meanwhile share the next reading.

    on_problem is called with the name of each service that the metrics are read from, and why it
    cannot be used, or None. Unless it raises that, the scrape says so, and has no metrics of it.
    """

    def __init__(self, window: Window, on_problem: OnProblem) -> None:
        self._window = window
        self._on_problem = on_problem
        self._lock = Lock()
        self._metrics: list[Metric] = []
        self._read_at = float("-inf")

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics that can be read."""
        arrived_at = time.monotonic()
        with self._lock:
            if self._read_at < arrived_at:
                read_at = time.monotonic()
                self._metrics, self._read_at = self._read_all(), read_at
            metrics = self._metrics
        yield from metrics

    def _read_all(self) -> list[Metric]:
        services = (
            _Service(DATABASE, open_engine, self._read_database),
            _Service("broker", open_broker, read_broker),
            _Service("result_store", open_results, read_results),
        )
        return [metric for service in services for metric in self._read(service)]

    def _read(self, service: _Service) -> Iterator[Metric]:
        metrics: list[Metric] = []
        problem = None
        try:
            with service.open() as opened:
                metrics += service.read(opened)
        except click.ClickException as error:
            problem = error
        self._on_problem(service.name, problem)
        words = service.name.replace("_", " ")
        up = Family(f"{service.name}_up", f"1 if the {words} can be used, else 0.")
        yield up.single(problem is None)
        if problem is None:
            yield from metrics

    def _read_database(self, engine: Engine) -> Iterator[Metric]:
        now, end = clock.now(), time.monotonic() + TIME_LIMIT
        complete = dict.fromkeys(PARTS, 0)
        for name, read in PARTS.items():
            if time.monotonic() >= end:
                break
            try:
                with read_transaction(engine) as connection, limit_time(connection, end):
                    metrics = list(read(connection, now, self._window))
            except Transient:
                if time.monotonic() < end:
                    raise
            else:
                complete[name] = 1
                yield from metrics
        yield _COMPLETE.gauge(complete)


_COMPLETE = Family(
    "scrape_complete",
    f"1 if a part of the database's metrics was read, 0 if {TIME_LIMIT:g} seconds were too short.",
    ("part",),
)
