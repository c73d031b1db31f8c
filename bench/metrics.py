"""The metrics that the benchmark measures, with stable names, and their goals."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Measurements = dict[str, float | None]
"""Values by metric name; None if the compared library is not installed."""


@dataclass(frozen=True)
class Goal:
    """The lowest or highest value that a metric should have."""

    bound: Literal["least", "most"]
    value: float

    def is_met_by(self, value: float) -> bool:
        """Return whether a value meets the goal."""
        return value >= self.value if self.bound == "least" else value <= self.value


@dataclass(frozen=True)
class Metric:
    """A metric: one row of the report."""

    name: str
    description: str
    unit: Literal["x", "µs", "ms", "/s", "/min", "bytes", "MB"]
    goal: Goal | None = None


def _least(value: float) -> Goal:
    return Goal("least", value)


def _most(value: float) -> Goal:
    return Goal("most", value)


_SIGNING = (
    Metric(
        "sign_get_vs_boto3", "sign a GET URL: boto3 (cached client) / valetkey", "x", _least(40)
    ),
    Metric("sign_get_with_id_vs_boto3", "sign a GET URL with a grant id: boto3 / valetkey", "x"),
    Metric(
        "sign_put_vs_boto3", "sign a PUT with 3 signed headers: boto3 / valetkey", "x", _least(20)
    ),
    Metric("sign_post_vs_boto3", "sign a POST form: boto3 / valetkey", "x", _least(10)),
    Metric(
        "sign_get_vs_obstore",
        "sign 10,000 GET URLs: obstore (Rust, one list) / valetkey",
        "x",
        _least(2),
    ),
    Metric("sign_get_vs_libpresign", "sign a GET URL: libpresign (C++) / valetkey", "x"),
    Metric("sign_get_vs_minio", "sign a GET URL: minio / valetkey", "x"),
    Metric("sign_get_vs_floor", "sign a GET URL: valetkey / one SHA-256 and one HMAC", "x"),
    Metric("sign_get_us", "sign a GET URL", "µs"),
    Metric("sign_get_with_id_us", "sign a GET URL with a grant id", "µs"),
    Metric("sign_put_us", "sign a PUT", "µs"),
    Metric("sign_post_us", "sign a POST form", "µs"),
    Metric("sign_get_boto3_us", "sign a GET URL with boto3", "µs"),
    Metric("sign_get_with_id_boto3_us", "sign a GET URL with a grant id with boto3", "µs"),
    Metric("sign_put_boto3_us", "sign a PUT with boto3", "µs"),
    Metric("sign_post_boto3_us", "sign a POST form with boto3", "µs"),
)
_BATCHES = (
    Metric(
        "batch_10k_vs_boto3_loop_sqlite",
        "batch of 10,000 links, to the last result: boto3 loop / valetkey",
        "x",
        _least(8),
    ),
    Metric("batch_10k_vs_boto3_loop_postgres", "the same with PostgreSQL", "x", _least(8)),
    Metric("first_result_ms", "time to the first link of that batch", "ms", _most(40)),
    Metric("first_result_ms_postgres", "the same with PostgreSQL", "ms", _most(40)),
    Metric("links_per_second", "rate of links in that batch", "/s"),
    Metric("links_per_second_postgres", "the same with PostgreSQL", "/s"),
    Metric("worker_rss_mb", "memory of the largest worker process afterwards", "MB", _most(150)),
    Metric(
        "producer_rss_mb", "peak memory of a producer streaming 100,000 links", "MB", _most(200)
    ),
    Metric("redis_bytes_per_link", "memory in Redis of one link's result", "bytes"),
)


def _single_metrics() -> Iterator[Metric]:
    for end, database in (("", ""), ("_postgres", ", with PostgreSQL")):
        yield Metric(
            f"single_latency_vs_noop{end}",
            f"latency: one link / a Celery task that does nothing{database}",
            "x",
            _most(1.7),
        )
        yield Metric(
            f"single_rate_vs_noop{end}",
            f"rate with 32 in flight: links / tasks that do nothing{database}",
            "x",
            _least(0.7),
        )
        yield Metric(
            f"single_latency_ms{end}",
            f"latency of one link, from the request to the result{database}",
            "ms",
        )
        yield Metric(
            f"noop_latency_ms{end}", "latency of a task that does nothing, beside it", "ms"
        )
        yield Metric(f"singles_per_second{end}", f"rate of links with 32 in flight{database}", "/s")
        yield Metric(
            f"noops_per_second{end}", "rate of tasks that do nothing with 32 in flight", "/s"
        )


_SIGNED_MESSAGES = (
    Metric(
        "identity_overhead_batch",
        "batch of 10,000 links: signed and sealed / unsigned",
        "x",
        _most(1.15),
    ),
    Metric("identity_overhead_single", "one link: signed and sealed / unsigned", "x", _most(1.15)),
)
_BULK_LATENCY = (
    Metric(
        "single_latency_during_bulk",
        "latency of one link: during a batch of 100,000 / idle",
        "x",
        _most(3),
    ),
    Metric("single_latency_during_bulk_ms", "latency of one link during a batch of 100,000", "ms"),
)
_DATABASE_GROWTH = (
    Metric(
        "batch_growth_sqlite",
        "speed of 10,000 links: with 10 M audit rows / with none",
        "x",
        _least(0.9),
    ),
    Metric("batch_growth_postgres", "the same with PostgreSQL", "x", _least(0.9)),
)
_STREAM = (
    Metric(
        "stream_1m_producer_rss_mb",
        "peak memory of a producer streaming 1,000,000 links",
        "MB",
        _most(200),
    ),
    Metric(
        "stream_1m_worker_rss_mb",
        "memory of the largest worker process afterwards",
        "MB",
        _most(150),
    ),
    Metric("stream_1m_redis_peak_mb", "peak memory of Redis, with all results", "MB"),
    Metric("stream_1m_links_per_second", "rate of links in that batch", "/s"),
)
_LOOP = (
    Metric("loop_webhook_ms", "from the use of a grant to its webhook, median", "ms", _most(500)),
    Metric("loop_webhook_p95_ms", "the same, p95", "ms"),
    Metric("loop_webhook_least_ms", "the same, the fastest", "ms"),
    Metric("loop_webhook_most_ms", "the same, the slowest", "ms"),
)
_STARTUP = (
    Metric("valetkey_help_vs_python", "CPU: valetkey --help / python -c pass", "x", _most(6)),
    Metric("audit_list_vs_python", "CPU: audit list / python -c pass", "x", _most(12)),
)


def _use_metrics() -> Iterator[Metric]:
    for database in ("sqlite", "postgres"):
        yield Metric(
            f"events_per_minute_{database}",
            "events a minute that name their grant, from the queue to the last deletion",
            "/min",
            _least(100_000),
        )
        yield Metric(
            f"events_with_head_per_minute_{database}", "the same, asking storage for each", "/min"
        )
        yield Metric(
            f"event_cpu_us_{database}", "CPU of the intake for an event that names its grant", "µs"
        )
        yield Metric(
            f"event_with_head_cpu_us_{database}", "the same, asking storage for each", "µs"
        )
        yield Metric(
            f"event_to_deletion_ms_{database}",
            "from a single event's receipt to its deletion, which follows the commit",
            "ms",
        )
        lines = f"log_lines_per_second_{database}"
        yield Metric(lines, "lines of logs imported, one in ten a download", "/s", _least(16_667))
        yield Metric(f"log_downloads_per_second_{database}", "the same, all downloads", "/s")
    yield Metric("log_import_rss_mb", "peak memory of an import of downloads", "MB", _most(150))


def _audit_metrics() -> Iterator[Metric]:
    pages = {
        "list_tenant_time": "a page of a tenant's day",
        "list_key": "a page of one object key",
        "list_absent_key": "a search for an object key that is not there",
        "list_batch": "a page of one batch",
        "list_decision": "a page of a tenant's refusals",
    }
    for database in ("sqlite", "postgresql"):
        for name, text in pages.items():
            yield Metric(f"audit_{name}_p50_ms_{database}", text, "ms")
            yield Metric(f"audit_{name}_p95_ms_{database}", f"{text}, p95", "ms", _most(20))
        yield Metric(f"audit_whose_p50_ms_{database}", "whose a link is", "ms")
        yield Metric(f"audit_whose_p95_ms_{database}", "whose a link is, p95", "ms", _most(5))
        for name in (*(name for name in pages if name != "list_absent_key"), "whose"):
            text = f"{pages.get(name, 'the grant of an id')}, as a command"
            yield Metric(f"audit_{name}_command_p50_ms_{database}", text, "ms")
            yield Metric(
                f"audit_{name}_command_p95_ms_{database}", f"{text}, p95", "ms", _most(400)
            )
        yield Metric(f"audit_count_day_p50_ms_{database}", "count --by day over a month", "ms")
        yield Metric(f"audit_count_day_p95_ms_{database}", "the same, p95", "ms", _most(2_000))
        yield Metric(f"audit_verify_rate_{database}", "rows verified", "/s", _least(300_000))
        for file_format in ("csv", "jsonl", "parquet"):
            text = f"rows exported as {file_format}"
            yield Metric(f"audit_export_{file_format}_rate_{database}", text, "/s", _least(200_000))
        for name, text, goal in (
            ("beside_rows", "issuing: beside the rows / beside none", 0.9),
            ("vs_baseline", "issuing: this checkout / the baseline", 0.93),
        ):
            yield Metric(f"audit_issuing_{name}_{database}", text, "x", _least(goal))
            for end in ("least", "most"):
                yield Metric(f"audit_issuing_{name}_{end}_{database}", f"{end} of the rounds", "x")


METRICS = {
    metric.name: metric
    for metric in (
        *_SIGNING,
        *_BATCHES,
        *_single_metrics(),
        *_SIGNED_MESSAGES,
        *_BULK_LATENCY,
        *_DATABASE_GROWTH,
        *_STREAM,
        *_use_metrics(),
        *_LOOP,
        *_STARTUP,
        *_audit_metrics(),
    )
}
