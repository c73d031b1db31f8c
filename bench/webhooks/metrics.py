"""The metrics of webhooks."""

from bench.metrics import DATABASE_SUFFIXES, Metric, at_least, at_most

METRICS = tuple(
    metric
    for end, database in DATABASE_SUFFIXES
    for metric in (
        Metric(
            f"webhooks_per_second{end}",
            f"webhooks delivered over HTTPS to 20 endpoints{database}",
            "/s",
            at_least(400),
        ),
        Metric(
            f"webhooks_vs_httpx{end}",
            f"that rate / bare POSTs of the same body in an httpx loop{database}",
            "x",
        ),
        Metric(f"webhook_cpu_us{end}", f"CPU of the worker for a webhook{database}", "µs"),
        Metric(f"webhook_receiver_cpu_us{end}", "CPU of the receivers for a webhook", "µs"),
        Metric(
            f"webhook_ms{end}",
            f"from the commit to the receipt, at 50 a second{database}, p50",
            "ms",
            at_most(60),
        ),
        Metric(f"webhook_p95_ms{end}", "the same, p95", "ms", at_most(150)),
        Metric(
            f"webhook_p95_beside_dead{end}",
            "p95 beside 50 dead and 10 slow endpoints of its tenant / without them",
            "x",
            at_most(2),
        ),
    )
)
