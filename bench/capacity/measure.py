"""Measures the costs with one issuing process, and checks what the model says about two of them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from operator import truediv
from statistics import median

from sqlalchemy import Engine

from bench import service
from bench.capacity import meters, model, redis_memory
from bench.capacity.costs import KINDS, Cost, Costs
from bench.capacity.traffic import Send, senders, timed
from bench.comparison import Spread
from bench.metrics import Measurements
from worker.db.engine import create_database_engine, sqlite_path
from worker.devstack.stack import Stack

ROUNDS = 9
REQUESTS = {"single": 500, "company": 1_024, "chunk": 30}
"""The requests of each kind in a round."""
_PROCESSES = 2  # that the model is checked with
_SETTLE = 11  # seconds after which idle connections to PostgreSQL have told of their work


def measure(rounds: int = ROUNDS, requests: Mapping[str, int] = REQUESTS) -> Measurements:
    """Measure both databases."""
    measurements = _measure("sqlite", None, rounds, requests)
    with service.durable_postgres() as url:
        return measurements | _measure("postgres", url, rounds, requests)


def _measure(
    database: str, url: str | None, rounds: int, requests: Mapping[str, int]
) -> Measurements:
    with _prepared(url, 1) as (stack, engine, sends):
        waiting = redis_memory.message_bytes(stack)
        kinds = {
            kind: _cost(stack, engine, sends[kind], requests[kind], rounds, waiting[kind])
            for kind in KINDS
        }
        held = meters.connections(engine)
    with _prepared(url, _PROCESSES) as (_, engine, sends):
        rates = {kind: _rates(sends[kind], requests[kind], rounds) for kind in KINDS}
        # What runs beside the issuing processes has connections too.
        each = (meters.connections(engine) - held) / (_PROCESSES - 1)
    costs = Costs(database, kinds, each)
    return costs.named() | _checked(costs, rates)


def _rates(send: Send, requests: int, rounds: int) -> Spread:
    return Spread(requests / timed(send, requests).seconds for _ in range(rounds))


@contextmanager
def _prepared(url: str | None, workers: int) -> Iterator[tuple[Stack, Engine, Mapping[str, Send]]]:
    with (
        service.running_service(url, workers=workers) as stack,
        senders(stack) as sends,
    ):
        for send in sends.values():
            send(10 * workers)  # warm up connections, credentials and imports
        service.analyze_tables(stack)
        engine = create_database_engine(stack.info.database_url)
        try:
            yield stack, engine, sends
        finally:
            engine.dispose()


def _cost(  # noqa: PLR0913, PLR0917 - one for each part of the measurement
    stack: Stack, engine: Engine, send: Send, requests: int, rounds: int, waiting: float
) -> Cost:
    meter = meters.CpuMeter(stack, engine)
    redis_memory.take_results(stack)
    before, counters = meter.read(), meters.read_database(engine)
    with _writer_probe(stack) as writer_share:
        sent = [timed(send, requests) for _ in range(rounds)]
        share = writer_share()
    used = meter.read().since(before)
    if engine.dialect.name == "postgresql":
        time.sleep(_SETTLE)
    after = meters.read_database(engine)
    count = requests * rounds
    done = {name: (value - counters[name]) / count for name, value in after.items()}
    busy_us = share * sum(times.seconds for times in sent) / count * 1e6
    return Cost(
        per_second=median(requests / times.seconds for times in sent),
        worker_cpu_us=used.workers / count * 1e6,
        reader_cpu_us=used.readers / count * 1e6,
        redis_cpu_us=used.redis / count * 1e6,
        database_cpu_us=used.database / count * 1e6,
        producer_cpu_us=sum(times.cpu for times in sent) / count * 1e6,
        write_us=done.get("busy_ms", 0) * 1e3 or busy_us,
        database_bytes=done["bytes"],
        wal_bytes=done.get("wal_bytes", 0),
        fsyncs=done.get("fsyncs", 0),
        message_bytes=waiting,
        result_bytes=redis_memory.take_results(stack) / count,
    )


@contextmanager
def _writer_probe(stack: Stack) -> Iterator[Callable[[], float]]:
    """Yield a function that returns how much of the time SQLite's writer was taken until then."""
    path = sqlite_path(stack.info.database_url)
    if path is None:
        yield lambda: 0.0
        return
    command = [sys.executable, "-m", "bench.capacity.writer_probe", str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as probe:
        if probe.stdout is None or not probe.stdout.readline():
            raise RuntimeError("the probe of SQLite's writer did not start")
        yield lambda: float(probe.communicate()[0])


def _checked(costs: Costs, rates: Mapping[str, Spread]) -> Measurements:
    measurements: Measurements = {}
    for kind, rate in rates.items():
        predicted = model.predicted_per_second(
            costs.kinds[kind],
            _PROCESSES,
            os.cpu_count() or 1,
            one_writer=costs.database == "sqlite",
        )
        prefix = f"capacity_{costs.database}_{kind}"
        measurements[f"{prefix}_two_per_second"] = rate
        measurements[f"{prefix}_predicted_per_second"] = predicted
        measurements[f"{prefix}_predicted_vs_measured"] = rate.map(partial(truediv, predicted))
    return measurements
