"""Rounds of requests to a service, with meters that only run while its own requests do."""

import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

from sqlalchemy import Engine

from bench.capacity import redis_memory
from bench.capacity.costs import Cost
from bench.capacity.meters import CpuMeter, read_database
from bench.capacity.traffic import Send, timed
from worker.base.database_engine import sqlite_path
from worker.dev.stack import Stack

_SETTLE = 11  # seconds after which idle connections to PostgreSQL have told of their work


class MeteredTurns:
    """The turns of a service in which requests of one kind are sent, and what they cost in all."""

    def __init__(self, stack: Stack, engine: Engine, send: Send, requests: int) -> None:
        redis_memory.take_results(stack)
        self._stack, self._engine, self._send, self._requests = stack, engine, send, requests
        self._meter, self._before = CpuMeter(stack, engine), read_database(engine)
        self._used: defaultdict[str, float] = defaultdict(float)
        self._rates: list[float] = []

    def take(self) -> float:
        """Send the requests of a turn, and return their rate."""
        before = self._meter.read()
        with _writer_probe(self._stack) as writer_share:
            sent = timed(self._send, self._requests)
            self._used["writer"] += writer_share() * sent.seconds
        for part, seconds in self._meter.read().since(before)._asdict().items():
            self._used[part] += seconds
        self._used["producer"] += sent.cpu
        self._rates.append(self._requests / sent.seconds)
        return self._rates[-1]

    def cost(self) -> Cost:
        """Return the cost of a request, without the memory that its message takes."""
        if self._engine.dialect.name == "postgresql":
            time.sleep(_SETTLE)
        count = self._requests * len(self._rates)
        used_us = {name: seconds / count * 1e6 for name, seconds in self._used.items()}
        done = {
            name: (value - self._before[name]) / count
            for name, value in read_database(self._engine).items()
        }
        return Cost(
            per_second=median(self._rates),
            worker_cpu_us=used_us["workers"],
            reader_cpu_us=used_us["readers"],
            redis_cpu_us=used_us["redis"],
            database_cpu_us=used_us["database"],
            producer_cpu_us=used_us["producer"],
            write_us=done["busy_ms"] * 1e3 if "busy_ms" in done else used_us["writer"],
            database_bytes=done["bytes"],
            wal_bytes=done.get("wal_bytes", 0),
            fsyncs=done.get("fsyncs", 0),
            message_bytes=0,
            result_bytes=redis_memory.take_results(self._stack) / count,
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
