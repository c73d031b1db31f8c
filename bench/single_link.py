"""The latency and rate of single links, compared with a Celery task that does nothing."""

import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from celery import exceptions

from bench import noop_task, service
from bench.comparison import alternate, compare, elapsed_seconds, inverse, milliseconds
from bench.metrics import Measurements
from valetkey import Client
from worker.devstack.processes import Program, running
from worker.devstack.stack import Stack

ROUNDS = 9
_SEQUENTIAL_REQUESTS = 200  # in each round of latency
_CONCURRENT_REQUESTS = 1_000  # in each round of rate
_MAX_IN_FLIGHT = 32
_RESULT_TIMEOUT = 30  # seconds

WaitForResult = Callable[[], object]
SendRequest = Callable[[], WaitForResult]
"""A function that sends one request, and returns a function that waits for its result."""


def measure() -> Measurements:
    """Measure both databases."""
    sqlite = _measure()
    with service.durable_postgres() as url:
        postgres = _measure(url)
    return sqlite | {f"{name}_postgres": value for name, value in postgres.items()}


def _measure(database_url: str | None = None) -> Measurements:
    """Measure latency, then rate, alternating with the no-op task."""
    with (
        service.running_service(database_url) as stack,
        _noop_worker(stack) as send_noop,
        service.signing_client(stack) as client,
    ):
        send_link = link_sender(client)
        for send in (send_link, send_noop):
            latency(send)  # warm up connections and imports on both sides
        latencies = compare(
            alternate(lambda: latency(send_link), lambda: latency(send_noop), ROUNDS)
        )
        rates = compare(alternate(lambda: _rate(send_link), lambda: _rate(send_noop), ROUNDS))
    return {
        "single_latency_vs_noop": latencies.ratio.map(inverse),
        "single_rate_vs_noop": rates.ratio.map(inverse),
        "single_latency_ms": latencies.ours.map(milliseconds),
        "noop_latency_ms": latencies.theirs.map(milliseconds),
        "singles_per_second": rates.ours,
        "noops_per_second": rates.theirs,
    }


def link_sender(client: Client) -> SendRequest:
    """Return a function that requests one link from the client."""
    return lambda: client.download(service.BUCKET, "2026/11/u-1.pdf").result


def latency(send: SendRequest) -> float:
    """Return the median seconds from sending a request to its result, one request at a time."""
    return median(elapsed_seconds(lambda: send_and_wait(send)) for _ in range(_SEQUENTIAL_REQUESTS))


def send_and_wait(send: SendRequest) -> None:
    """Send one request and wait for its result."""
    wait = send()
    wait()


def _rate(send: SendRequest) -> float:
    return _CONCURRENT_REQUESTS / elapsed_seconds(lambda: _send_concurrently(send))


def _send_concurrently(send: SendRequest) -> None:
    in_flight: deque[WaitForResult] = deque()
    for _ in range(_CONCURRENT_REQUESTS):
        if len(in_flight) == _MAX_IN_FLIGHT:
            in_flight.popleft()()
        in_flight.append(send())
    for wait in in_flight:
        wait()


@contextmanager
def _noop_worker(stack: Stack) -> Iterator[SendRequest]:
    app = noop_task.create_app(stack.info.broker_url, stack.info.result_url)
    with running(_worker_program(stack), lambda _: _worker_responds(app)):
        yield lambda: _send_noop(app)


def _send_noop(app: Any, timeout: float = _RESULT_TIMEOUT) -> WaitForResult:
    result = app.send_task(noop_task.TASK, queue=noop_task.QUEUE)
    return lambda: result.get(timeout=timeout)


def _worker_responds(app: Any) -> bool:
    try:
        send_and_wait(lambda: _send_noop(app, timeout=0.5))
    except exceptions.TimeoutError:
        return False
    return True


def _worker_program(stack: Stack) -> Program:
    # The same options with which worker.commands.run starts the service's workers.
    options = {"pool": "prefork", "concurrency": service.WORKERS, "loglevel": "INFO"}
    options |= {"queues": noop_task.QUEUE, "hostname": "noop@bench"}
    return Program(
        name="noop",
        command=(
            *(sys.executable, "-m", "celery", "-A", "bench.noop_task", "worker"),
            *("--without-gossip", "--without-heartbeat", "--without-mingle"),
            *(f"--{name}={value}" for name, value in options.items()),
        ),
        folder=Path(__file__).parents[1],
        log=Path(stack.children[0].log).with_name("noop.log"),
        environ=dict(stack.environ) | {"REMAP_SIGTERM": "SIGQUIT"},
    )
