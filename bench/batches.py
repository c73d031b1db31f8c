"""How long ten thousand links take, with all that valetkey does, against signing them bare."""

import json
import subprocess
import sys
from collections.abc import Mapping
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

from bench import service, stored
from bench.comparing import compared, in_turns, seconds
from bench.figures import Measured
from bench.memory import largest_child
from bench.signing import KEYS, boto3_client, boto3_get
from valetkey import Client, Grant
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS
from worker.devstack.stack import Stack

ROUNDS = 7
_STREAMED, _MANY_STREAMED = 100_000, 1_000_000


class Batch(NamedTuple):
    """Seconds from asking to the first and to the last grant."""

    first: float
    last: float


def measure() -> Measured:
    """On SQLite, then on PostgreSQL; and what memory it takes."""
    with service.running() as up:
        sqlite = _batches(up)
        redis = stored.bytes_per_link(up.running.result_url, DEFAULT_CHUNK_ITEMS)
        worker = largest_child(up.running.pids["worker"])
        producer = _stream(up, _STREAMED)
    with service.postgres() as url, service.running(url) as up:
        postgres = _batches(up)
    return {
        "batch_10k_vs_boto3_loop_sqlite": sqlite["ratio"],
        "batch_10k_vs_boto3_loop_postgres": postgres["ratio"],
        "first_result_ms": sqlite["first_ms"],
        "first_result_ms_postgres": postgres["first_ms"],
        "links_per_second": sqlite["rate"],
        "links_per_second_postgres": postgres["rate"],
        "worker_rss_mb": worker,
        "producer_rss_mb": producer["rss_mb"],
        "redis_bytes_per_link": redis,
    }


def measure_stream() -> Measured:
    """One batch of a million links, on SQLite."""
    with service.running() as up:
        said = _stream(up, _MANY_STREAMED)
        worker = largest_child(up.running.pids["worker"])
        redis = stored.peak(up.running.result_url)
    return {
        "stream_1m_producer_rss_mb": said["rss_mb"],
        "stream_1m_worker_rss_mb": worker,
        "stream_1m_redis_peak_mb": redis,
        "stream_1m_links_per_second": _MANY_STREAMED / said["seconds"],
    }


def _batches(up: Stack) -> Mapping[str, float]:
    sign = boto3_get(boto3_client())
    with service.client(up) as client:
        ask(client)  # connections, credentials and imports, on both sides
        service.settle(up)
        rounds = in_turns(
            lambda: ask(client), lambda: seconds(lambda: [sign(key) for key in KEYS]), ROUNDS
        )
    whole = compared((batch.last, loop) for batch, loop in rounds)
    return {
        "ratio": whole.ratio,
        "rate": len(KEYS) / whole.ours,
        "first_ms": median(batch.first for batch, _ in rounds) * 1e3,
    }


def ask(client: Client) -> Batch:
    """Ask for ten thousand links, and read them all."""
    start = perf_counter()
    answers = iter(client.download_many(service.BUCKET, KEYS))
    granted = [next(answers)]
    first = perf_counter()
    granted += answers
    last = perf_counter()
    if not all(isinstance(answer, Grant) for answer in granted):
        raise RuntimeError("a link was refused: nothing was measured")
    return Batch(first - start, last - start)


def _stream(up: Stack, links: int) -> Mapping[str, Any]:
    command = [sys.executable, "-m", "bench.producer", service.BUCKET, str(links)]
    done = subprocess.run(command, env=service.environment(up), stdout=subprocess.PIPE, check=True)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if said["granted"] != links:
        raise RuntimeError("a link was refused: nothing was measured")
    return said
