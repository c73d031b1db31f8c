"""The CPU and the rate of large batches with 1, 2 and 4 issuing processes.

Each number of processes has a service of its own, all with the same kind of database, and they work
in turns. Each process has a producer, all of the same tenant, and is pinned to a core: where cores
end, to one that another process has too. The efficiency is that of CPU: a grant's CPU with one
process / with several, in all parts of the service and its database. It shows what processes cost
each other, and no waiting. The rates show waiting too, where there are cores for all of them.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from sqlalchemy import Engine

from bench import service
from bench.capacity.meters import CpuMeter, read_database
from bench.comparison import Spread
from bench.metrics import Measurements
from bench.processes import list_processes, pool_children
from tests.support.servers.databases import fresh_database
from worker.base.database_engine import create_database_engine
from worker.dev.stack import Stack

ROUNDS = 9
LINKS = 30_000  # of each producer in each round
PROCESSES = (1, 2, 4)
_OTHERS = 2  # cores for the producers, Redis and the database, besides those of the processes
_SETTLE = 11  # seconds after which idle connections to PostgreSQL have told of their work


class Turn(NamedTuple):
    """The turn of one service: the CPU of a grant in microseconds, and the grants a second."""

    cpu_us: float
    rate: float


class _Service(NamedTuple):
    stack: Stack
    engine: Engine
    meter: CpuMeter


def measure(links: int = LINKS, rounds: int = ROUNDS) -> Measurements:
    """Measure both databases."""
    measurements = _measure("sqlite", dict.fromkeys(PROCESSES), links, rounds)
    with service.durable_postgres() as server, ExitStack() as stack:
        urls = {n: stack.enter_context(fresh_database(server)) for n in PROCESSES}
        return measurements | _measure("postgres", urls, links, rounds)


def _measure(
    database: str, urls: Mapping[int, str | None], links: int, rounds: int
) -> Measurements:
    measurements: Measurements = {}
    with ExitStack() as stack:
        services = {n: stack.enter_context(_running(url, n)) for n, url in urls.items()}
        for processes, running in services.items():
            _take_turn(running, processes, min(links, 6_000))  # warm up
            service.analyze_tables(running.stack)
        before = {n: _database_ms(running) for n, running in services.items()}
        turns = [
            {n: _take_turn(running, n, links) for n, running in services.items()}
            for _ in range(rounds)
        ]
        if database == "postgres":
            time.sleep(_SETTLE)
            for n, running in services.items():
                spent_us = (_database_ms(running) - before[n]) * 1e3
                measurements[f"scale_{n}_database_us"] = spent_us / (links * n * rounds)
    measurements = summarise(turns, os.cpu_count() or 1) | measurements
    return {f"{name}_{database}": value for name, value in measurements.items()}


def summarise(turns: list[dict[int, Turn]], cores: int) -> Measurements:
    """Return the figures of all rounds, each a turn of every number of processes."""
    measurements: Measurements = {}
    for n in turns[0]:
        measurements[f"scale_{n}_cpu_us"] = Spread(turn[n].cpu_us for turn in turns)
        measurements[f"scale_{n}_links_per_second"] = Spread(turn[n].rate for turn in turns)
        if n > 1:
            efficiency = Spread(turn[1].cpu_us / turn[n].cpu_us for turn in turns)
            measurements[f"scale_{n}_efficiency"] = efficiency
        if n > 1 and cores >= n + _OTHERS:
            measurements[f"scale_{n}_rate_efficiency"] = Spread(
                turn[n].rate / turn[1].rate / n for turn in turns
            )
    return measurements


def _take_turn(running: _Service, processes: int, links: int) -> Turn:
    before = running.meter.read()
    command = [sys.executable, "-m", "bench.producer", service.BUCKET, str(links)]
    environ = service.producer_environment(running.stack)
    producers = [
        subprocess.Popen(command, env=environ, stdout=subprocess.PIPE) for _ in range(processes)
    ]
    reports = [json.loads(producer.communicate()[0].splitlines()[-1]) for producer in producers]
    if any(report["granted"] != links for report in reports):
        raise RuntimeError("a link was refused, so the measurement is not valid")
    used = sum(running.meter.read().since(before))
    rate = sum(links / report["seconds"] for report in reports)
    return Turn(used / (links * processes) * 1e6, rate)


def _database_ms(running: _Service) -> float:
    return read_database(running.engine).get("busy_ms", 0)


@contextmanager
def _running(url: str | None, processes: int) -> Iterator[_Service]:
    with service.running_service(url, workers=processes) as stack:
        children = pool_children(list_processes(), stack.info.pids["worker"])
        cores = sorted(os.sched_getaffinity(0))
        for number, child in enumerate(children):
            os.sched_setaffinity(child.pid, {cores[number % len(cores)]})
        engine = create_database_engine(stack.info.database_url)
        try:
            yield _Service(stack, engine, CpuMeter(stack, engine))
        finally:
            engine.dispose()
