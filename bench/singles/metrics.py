"""The metrics of single links."""

from collections.abc import Iterator

from bench.metrics import DATABASE_SUFFIXES, Metric, at_least, at_most


def _link_metrics() -> Iterator[Metric]:
    for end, database in DATABASE_SUFFIXES:
        yield Metric(
            f"single_latency_vs_noop{end}",
            f"latency: one link / a Celery task that does nothing{database}",
            "x",
            at_most(1.6),
        )
        yield Metric(
            f"single_rate_vs_noop{end}",
            f"rate with 32 in flight: links / tasks that do nothing{database}",
            "x",
            at_least(0.75),
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


_BULK_LATENCY = (
    Metric(
        "single_latency_during_bulk",
        "latency of one link: during a batch of 100,000 / idle",
        "x",
        at_most(3),
    ),
    Metric("single_latency_during_bulk_ms", "latency of one link during a batch of 100,000", "ms"),
)


def _async_metrics() -> Iterator[Metric]:
    for end, database in DATABASE_SUFFIXES:
        for count in (32, 256):
            yield Metric(
                f"singles_async_{count}_vs_noop{end}",
                f"rate with {count} coroutines of one AsyncClient: links / no-op tasks{database}",
                "x",
                at_least(3),
            )
            yield Metric(
                f"singles_async_{count}_per_second{end}",
                f"rate of links with {count} coroutines{database}",
                "/s",
            )
            yield Metric(
                f"noops_{count}_per_second{end}",
                f"rate of tasks that do nothing with {count} in flight, beside it",
                "/s",
            )


def _signed_metrics() -> Iterator[Metric]:
    for end, database in DATABASE_SUFFIXES:
        yield Metric(
            f"identity_overhead_batch{end}",
            f"batch of 10,000 links: signed and sealed / unsigned{database}",
            "x",
            at_most(1.15),
        )
        yield Metric(
            f"identity_overhead_single{end}",
            f"one link: signed and sealed / unsigned{database}",
            "x",
            at_most(1.15),
        )


METRICS = (*_link_metrics(), *_async_metrics(), *_signed_metrics(), *_BULK_LATENCY)
