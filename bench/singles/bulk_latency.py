"""The latency of one link while a batch of 100,000 links is in progress."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from bench import service
from bench.comparison import elapsed_seconds
from bench.metrics import Measurements
from bench.singles import single_link
from bench.singles.noop_worker import SendRequest
from worker.dev.stack import Stack

_BULK_LINKS = 100_000
_MAX_SAMPLES = 200


def measure() -> Measurements:
    """Measure the latency on an idle service and during a bulk run, in one run."""
    with service.running_service() as stack, service.signing_client(stack) as client:
        send = single_link.link_sender(client)
        single_link.latency(send)  # warm up connections and imports
        idle = single_link.latency(send)
        with _bulk_producer(stack) as producer:
            during_bulk = _latency_while_running(producer, send)
    return {
        "single_latency_during_bulk": during_bulk / idle,
        "single_latency_during_bulk_ms": during_bulk * 1e3,
    }


def _latency_while_running(producer: "subprocess.Popen[bytes]", send: SendRequest) -> float:
    samples: list[float] = []
    while producer.poll() is None and len(samples) < _MAX_SAMPLES:
        samples.append(elapsed_seconds(lambda: single_link.send_and_wait(send)))
    return median(samples)


@contextmanager
def _bulk_producer(stack: Stack) -> "Iterator[subprocess.Popen[bytes]]":
    command = [sys.executable, "-m", "bench.producer", service.BUCKET, str(_BULK_LINKS)]
    environ = service.producer_environment(stack)
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE) as producer:
        if producer.stdout is None or not producer.stdout.readline():
            raise RuntimeError("the bulk producer ended before it sent its batch")
        yield producer
        producer.terminate()
