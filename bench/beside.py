"""How long one link takes while a batch of a hundred thousand is on its way."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter

from bench import service, single
from bench.figures import Measured
from worker.devstack.stack import Stack

_LINKS = 100_000
_ALONE = 200  # links, one after the other


def measure() -> Measured:
    """Latency without and with a bulk run beside it, in one run."""
    with service.running() as up, service.client(up) as client:
        ask = single.asking(client)
        single.latency(ask)  # connections and imports
        idle = single.latency(ask)
        with _bulk(up) as bulk:
            beside = _while_running(bulk, ask)
    return {
        "single_latency_during_bulk": beside / idle,
        "single_latency_during_bulk_ms": beside * 1e3,
    }


def _while_running(bulk: "subprocess.Popen[bytes]", ask: single.Ask) -> float:
    taken: list[float] = []
    while bulk.poll() is None and len(taken) < _ALONE:
        start = perf_counter()
        ask()()
        taken.append(perf_counter() - start)
    return median(taken)


@contextmanager
def _bulk(up: Stack) -> "Iterator[subprocess.Popen[bytes]]":
    command = [sys.executable, "-m", "bench.producer", service.BUCKET, str(_LINKS)]
    environ = service.environment(up)
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE) as bulk:
        if bulk.stdout is None or not bulk.stdout.readline():
            raise RuntimeError("the bulk run ended before it began")
        yield bulk
        bulk.terminate()
