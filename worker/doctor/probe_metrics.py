"""Metrics of probes and of the memory of servers, and checks that services take writes."""

from collections.abc import Iterator
from typing import Any, Final, Literal

import click
from prometheus_client.core import Metric
from redis.exceptions import NoPermissionError
from sqlalchemy import Engine

from worker.base.database_engine import read_transaction
from worker.base.database_errors import Cause
from worker.cli.database_failures import database_unusable
from worker.cli.redis_servers import memory_usage
from worker.cli.service_failures import ServiceUnusable
from worker.doctor.prober import PARTS, Part, Prober, try_write
from worker.doctor.query_limits import write_problem
from worker.shared.monitoring import Family

BROKER: Final = "broker"
RESULT_STORE: Final = "result_store"
_MEMORY_USED = Family(
    "redis_memory_used_bytes", "Memory of a server that counts against its limit.", ("server",)
)
_MEMORY_MAX = Family(
    "redis_memory_max_bytes", "Limit of the memory of a server, if it has one.", ("server",)
)


def read_memory(client: Any, server: str) -> Iterator[Metric]:
    """Yield the memory of a server and its limit."""
    try:
        memory = memory_usage(client.info("memory"))
    except NoPermissionError:  # the user may read the rest
        return
    yield _MEMORY_USED.samples({server: memory.used})
    yield _MEMORY_MAX.samples({server: memory.limit} if memory.limit else {})


_PROBE_SUCCESS = Family(
    "probe_success", "1 if the last probe was answered and found nothing that fails, else 0."
)
_PROBE_SECONDS = Family("probe_seconds", "Time that the last successful probe took.")
_PROBE_PROBLEM = Family(
    "probe_problem", "1 for a part that failed at the last probe, else 0.", ("part",)
)


def read_probe(prober: Prober) -> Iterator[Metric]:
    """Yield what the last probe found."""
    last = prober.last
    problems = last.problems if last else {}
    is_success = last is not None and not problems
    yield _PROBE_SUCCESS.samples({} if prober.is_new else {(): is_success})
    yield _PROBE_SECONDS.samples({} if prober.seconds is None else {(): prober.seconds})
    yield _PROBE_PROBLEM.samples({part: part in problems for part in PARTS} if last else {})


def probe_failure(prober: Prober) -> click.ClickException | None:
    """Return what failed in workers at the last probe. Other parts have checks of their own."""
    problems = prober.last.problems if prober.last else {}
    texts = [f"{part}: {problems[part]}" for part in _OF_WORKERS if part in problems]
    return click.ClickException(f"the probe failed: {'; '.join(texts)}") if texts else None


_OF_WORKERS: tuple[Part, ...] = ("worker", "signing")


def check_database(engine: Engine, prober: Prober) -> None:
    """Raise ServiceUnusable if workers cannot write, or else the server takes no writes."""
    response = prober.last_response
    if response is None:
        with read_transaction(engine) as connection:
            cause = write_problem(connection)
        if cause is not None:
            raise database_unusable(cause, engine.url.render_as_string(hide_password=False))
    elif "database" in response.problems:
        cause = Cause(response.problems["database"], _AS_WORKERS)
        raise ServiceUnusable("the database from a worker", cause)


_AS_WORKERS = "run `python -m worker doctor` where the workers run, with their environment"


def check_server(client: Any, prober: Prober, part: Literal["broker", "result_store"]) -> None:
    """Raise an error of redis-py, or the problem of the last probe, if a server takes no writes."""
    try_write(client)
    problem = prober.last.problems.get(part) if prober.last else None
    if problem is not None:
        raise click.ClickException(problem)
