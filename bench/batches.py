"""The time of a batch of 10,000 links through the whole service, compared with a boto3 loop."""

import json
import subprocess
import sys
from collections.abc import Mapping
from time import perf_counter
from typing import Any, NamedTuple

from bench import memory, service
from bench.comparison import Spread, alternate, compare, elapsed_seconds, milliseconds
from bench.metrics import Measurements
from bench.signing import KEYS, boto3_client, boto3_get
from valetkey import Client, Grant
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS
from worker.dev.stack import Stack

ROUNDS = 9
_STREAM_LINKS, _LONG_STREAM_LINKS = 100_000, 1_000_000


class BatchTimes(NamedTuple):
    """Seconds from the request to the first and to the last grant."""

    first: float
    last: float


def measure() -> Measurements:
    """Measure batches on SQLite and on PostgreSQL, and the memory in use with SQLite."""
    with service.running_service() as stack:
        sqlite = _measure_batches(stack)
        redis_bytes = memory.redis_bytes_per_link(stack.info.result_url, DEFAULT_CHUNK_ITEMS)
        child = memory.largest_child(stack.info.pids["worker"])
        producer = _run_producer(stack, _STREAM_LINKS)
    with service.durable_postgres() as url, service.running_service(url) as stack:
        postgres = _measure_batches(stack)
    return {
        "batch_10k_vs_boto3_loop_sqlite": sqlite["ratio"],
        "batch_10k_vs_boto3_loop_postgres": postgres["ratio"],
        "first_result_ms": sqlite["first_ms"],
        "first_result_ms_postgres": postgres["first_ms"],
        "links_per_second": sqlite["rate"],
        "links_per_second_postgres": postgres["rate"],
        "worker_rss_mb": child.resident,
        "worker_pss_mb": child.proportional,
        "producer_rss_mb": producer["rss_mb"],
        "redis_bytes_per_link": redis_bytes,
    }


def measure_stream() -> Measurements:
    """Measure one batch of a million links on SQLite."""
    with service.running_service() as stack:
        producer = _run_producer(stack, _LONG_STREAM_LINKS)
        child = memory.largest_child(stack.info.pids["worker"])
        redis_mb = memory.redis_peak_mb(stack.info.result_url)
    return {
        "stream_1m_producer_rss_mb": producer["rss_mb"],
        "stream_1m_worker_rss_mb": child.resident,
        "stream_1m_redis_peak_mb": redis_mb,
        "stream_1m_links_per_second": _LONG_STREAM_LINKS / producer["seconds"],
    }


def _measure_batches(stack: Stack) -> Mapping[str, Spread]:
    sign = boto3_get(boto3_client())
    with service.signing_client(stack) as client:
        request_batch(client)  # warm up connections, credentials and imports on both sides
        service.analyze_tables(stack)
        rounds = alternate(
            lambda: request_batch(client),
            lambda: elapsed_seconds(lambda: [sign(key) for key in KEYS]),
            ROUNDS,
        )
    comparison = compare((times.last, loop) for times, loop in rounds)
    return {
        "ratio": comparison.ratio,
        "rate": comparison.ours.map(lambda seconds: len(KEYS) / seconds),
        "first_ms": Spread(milliseconds(times.first) for times, _ in rounds),
    }


def request_batch(client: Client) -> BatchTimes:
    """Request 10,000 links and read them all."""
    start = perf_counter()
    results = iter(client.download_many(service.BUCKET, KEYS))
    items = [next(results)]
    first = perf_counter()
    items += results
    last = perf_counter()
    if not all(isinstance(item, Grant) for item in items):
        raise RuntimeError("a link was refused, so the measurement is not valid")
    return BatchTimes(first - start, last - start)


def _run_producer(stack: Stack, links: int) -> Mapping[str, Any]:
    command = [sys.executable, "-m", "bench.producer", service.BUCKET, str(links)]
    environ = service.producer_environment(stack)
    completed = subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True)
    report: dict[str, Any] = json.loads(completed.stdout.splitlines()[-1])
    if report["granted"] != links:
        raise RuntimeError("a link was refused, so the measurement is not valid")
    return report
