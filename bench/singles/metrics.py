"""The metrics of single links."""

from collections.abc import Iterator

from bench.metrics import Metric, at_least, at_most


def _link_metrics() -> Iterator[Metric]:
    for end, database in (("", ""), ("_postgres", ", with PostgreSQL")):
        yield Metric(
            f"single_latency_vs_noop{end}",
            f"latency: one link / a Celery task that does nothing{database}",
            "x",
            at_most(1.7),
        )
        yield Metric(
            f"single_rate_vs_noop{end}",
            f"rate with 32 in flight: links / tasks that do nothing{database}",
            "x",
            at_least(0.7),
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
        at_most(1.15),
    ),
    Metric(
        "identity_overhead_single",
        "one link: signed and sealed / unsigned",
        "x",
        at_most(1.15),
    ),
)
_BULK_LATENCY = (
    Metric(
        "single_latency_during_bulk",
        "latency of one link: during a batch of 100,000 / idle",
        "x",
        at_most(3),
    ),
    Metric("single_latency_during_bulk_ms", "latency of one link during a batch of 100,000", "ms"),
)
METRICS = (*_link_metrics(), *_SIGNED_MESSAGES, *_BULK_LATENCY)
