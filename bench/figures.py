"""What is measured, under names that do not change, and what it should come to."""

from dataclasses import dataclass
from typing import Literal

Measured = dict[str, float | None]
"""Figures by name; None where what to compare with is not installed."""


@dataclass(frozen=True)
class Goal:
    """What a figure should be at least, or at most."""

    bound: Literal["least", "most"]
    value: float

    def met_by(self, value: float) -> bool:
        """Whether a figure is good enough."""
        return value >= self.value if self.bound == "least" else value <= self.value


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    what: str
    unit: Literal["x", "µs", "ms", "/s", "bytes", "MB"]
    goal: Goal | None = None


def _least(value: float) -> Goal:
    return Goal("least", value)


def _most(value: float) -> Goal:
    return Goal("most", value)


_SIGNING = (
    Figure("sign_get_vs_boto3", "sign a GET; boto3 on a cached client takes", "x", _least(40)),
    Figure("sign_get_with_id_vs_boto3", "with a grant id in it, boto3 takes", "x"),
    Figure("sign_put_vs_boto3", "a PUT with three signed headers, boto3 takes", "x", _least(20)),
    Figure("sign_post_vs_boto3", "a POST form, boto3 takes", "x", _least(10)),
    Figure("sign_get_vs_obstore", "10,000 GETs, obstore (Rust) on a list takes", "x", _least(2)),
    Figure("sign_get_vs_libpresign", "libpresign (C++) takes", "x"),
    Figure("sign_get_vs_minio", "minio takes", "x"),
    Figure("sign_get_vs_floor", "we take, of one SHA-256 and one HMAC as long", "x"),
    Figure("sign_get_us", "a GET", "µs"),
    Figure("sign_get_with_id_us", "a GET with a grant id", "µs"),
    Figure("sign_put_us", "a PUT", "µs"),
    Figure("sign_post_us", "a POST form", "µs"),
    Figure("sign_get_boto3_us", "a GET by boto3", "µs"),
    Figure("sign_get_with_id_boto3_us", "a GET with a grant id by boto3", "µs"),
    Figure("sign_put_boto3_us", "a PUT by boto3", "µs"),
    Figure("sign_post_boto3_us", "a POST form by boto3", "µs"),
)
_BATCHES = (
    Figure(
        "batch_10k_vs_boto3_loop_sqlite",
        "10,000 links from asking to the last; a bare boto3 loop takes",
        "x",
        _least(8),
    ),
    Figure("batch_10k_vs_boto3_loop_postgres", "the same on PostgreSQL", "x", _least(8)),
    Figure("first_result_ms", "the first link of that batch", "ms", _most(40)),
    Figure("first_result_ms_postgres", "the same on PostgreSQL", "ms", _most(40)),
    Figure("links_per_second", "links in that batch", "/s"),
    Figure("links_per_second_postgres", "the same on PostgreSQL", "/s"),
    Figure("worker_rss_mb", "the larger worker process afterwards", "MB", _most(150)),
    Figure("producer_rss_mb", "a producer streaming 100,000 links, at its peak", "MB", _most(200)),
    Figure("redis_bytes_per_link", "what the answer to a link takes in Redis", "bytes"),
)
_SINGLE = (
    Figure(
        "single_latency_vs_noop",
        "one link takes, of a Celery task that does nothing",
        "x",
        _most(1.7),
    ),
    Figure("single_rate_vs_noop", "links a second, 32 under way, of such tasks", "x", _least(0.7)),
    Figure("single_latency_ms", "one link, from asking to having it", "ms"),
    Figure("noop_latency_ms", "one such task", "ms"),
    Figure("singles_per_second", "links, 32 under way", "/s"),
    Figure("noops_per_second", "such tasks, 32 under way", "/s"),
)
_IDENTITY = (
    Figure(
        "identity_overhead_batch",
        "10,000 links, signed and sealed; without they take",
        "x",
        _most(1.15),
    ),
    Figure("identity_overhead_single", "one link, signed and sealed; without", "x", _most(1.15)),
)
_BESIDE = (
    Figure(
        "single_latency_during_bulk",
        "one link beside a batch of 100,000; alone it takes",
        "x",
        _most(3),
    ),
    Figure("single_latency_during_bulk_ms", "one link beside that batch", "ms"),
)
_GROWTH = (
    Figure(
        "batch_growth_sqlite", "10,000 links beside 10 M audit rows; beside none", "x", _least(0.9)
    ),
    Figure("batch_growth_postgres", "the same on PostgreSQL", "x", _least(0.9)),
)
_STREAM = (
    Figure(
        "stream_1m_producer_rss_mb",
        "a producer streaming 1,000,000 links, at its peak",
        "MB",
        _most(200),
    ),
    Figure("stream_1m_worker_rss_mb", "the larger worker process afterwards", "MB", _most(150)),
    Figure("stream_1m_redis_peak_mb", "Redis at its peak, with all answers", "MB"),
    Figure("stream_1m_links_per_second", "links in that batch", "/s"),
)
FIGURES = {
    figure.name: figure
    for figure in (*_SIGNING, *_BATCHES, *_SINGLE, *_IDENTITY, *_BESIDE, *_GROWTH, *_STREAM)
}
