"""All metrics that the benchmark measures, by name."""

from bench import flood
from bench.audit import metrics as audit
from bench.capacity import metrics as capacity
from bench.metrics import DATABASE_SUFFIXES, Metric, at_least, at_most
from bench.singles import metrics as singles
from bench.uses import metrics as uses
from bench.webhooks import metrics as webhooks

_SIGNING = (
    Metric(
        "sign_get_vs_boto3", "sign a GET URL: boto3 (cached client) / valetkey", "x", at_least(40)
    ),
    Metric(
        "sign_get_with_id_vs_boto3",
        "sign a GET URL with a grant id: boto3 / valetkey",
        "x",
        at_least(55),
    ),
    Metric(
        "sign_put_vs_boto3", "sign a PUT with 3 signed headers: boto3 / valetkey", "x", at_least(20)
    ),
    Metric("sign_post_vs_boto3", "sign a POST form: boto3 / valetkey", "x", at_least(18)),
    Metric(
        "sign_get_vs_obstore",
        "sign 10,000 GET URLs: obstore (Rust, one list) / valetkey",
        "x",
        at_least(2),
    ),
    Metric("sign_get_vs_libpresign", "sign a GET URL: libpresign (C++) / valetkey", "x"),
    Metric("sign_get_vs_minio", "sign a GET URL: minio / valetkey", "x"),
    Metric(
        "sign_get_vs_floor",
        "sign a GET URL: valetkey / one SHA-256 and one HMAC",
        "x",
        at_most(1.3),
    ),
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
        at_least(12),
    ),
    Metric("batch_10k_vs_boto3_loop_postgres", "the same with PostgreSQL", "x", at_least(11)),
    Metric("first_result_ms", "time to the first link of that batch", "ms", at_most(25)),
    Metric("first_result_ms_postgres", "the same with PostgreSQL", "ms", at_most(25)),
    Metric("links_per_second", "rate of links in that batch", "/s"),
    Metric("links_per_second_postgres", "the same with PostgreSQL", "/s"),
    Metric("worker_rss_mb", "memory of the largest pool child afterwards", "MB", at_most(110)),
    Metric("worker_pss_mb", "the same, shared pages counted in part", "MB"),
    Metric(
        "producer_rss_mb", "peak memory of a producer streaming 100,000 links", "MB", at_most(200)
    ),
    Metric("redis_bytes_per_link", "memory in Redis of one link's result", "bytes"),
)


_DATABASE_GROWTH = (
    Metric(
        "batch_growth_sqlite",
        "speed of 10,000 links: with 10 M audit rows / with none",
        "x",
        at_least(0.9),
    ),
    Metric("batch_growth_postgres", "the same with PostgreSQL", "x", at_least(0.9)),
)
_STREAM = (
    Metric(
        "stream_1m_producer_rss_mb",
        "peak memory of a producer streaming 1,000,000 links",
        "MB",
        at_most(200),
    ),
    Metric(
        "stream_1m_worker_rss_mb",
        "memory of the largest pool child afterwards",
        "MB",
        at_most(150),
    ),
    Metric("stream_1m_redis_peak_mb", "peak memory of Redis, with all results", "MB"),
    Metric("stream_1m_links_per_second", "rate of links in that batch", "/s"),
)
_CSV = tuple(
    metric
    for end, database in DATABASE_SUFFIXES
    for metric in (
        Metric(
            f"csv_links_vs_boto3{end}",
            f"links into a CSV file: `valetkey download --from` / boto3 loop{database}",
            "x",
            at_least(6),
        ),
        Metric(f"csv_links_per_second{end}", f"rate of that command{database}", "/s"),
        Metric(f"csv_boto3_links_per_second{end}", "rate of that loop, beside it", "/s"),
    )
)
_STARTUP = (
    Metric("valetkey_help_vs_python", "CPU: valetkey --help / python -c pass", "x", at_most(6)),
    Metric("audit_list_vs_python", "CPU: audit list / python -c pass", "x", at_most(20)),
)
_LOOP = (
    Metric("loop_webhook_ms", "from the use of a grant to its webhook, median", "ms", at_most(500)),
    Metric("loop_webhook_p95_ms", "the same, p95", "ms"),
    Metric("loop_webhook_least_ms", "the same, the fastest", "ms"),
    Metric("loop_webhook_most_ms", "the same, the slowest", "ms"),
)


METRICS = {
    metric.name: metric
    for metric in (
        *_SIGNING,
        *_BATCHES,
        *singles.METRICS,
        *_DATABASE_GROWTH,
        *_STREAM,
        *_CSV,
        *uses.METRICS,
        *_LOOP,
        *webhooks.METRICS,
        *_STARTUP,
        *audit.METRICS,
        *capacity.METRICS,
        *flood.METRICS,
    )
}
