"""The metrics of reading how grants were used."""

from collections.abc import Iterator

from bench.metrics import Metric, at_least, at_most


def _database_metrics() -> Iterator[Metric]:
    for database in ("sqlite", "postgres"):
        yield Metric(
            f"events_per_minute_{database}",
            "events a minute that name their grant, from the queue to the last deletion",
            "/min",
            at_least(100_000),
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
        yield Metric(lines, "lines of logs imported, one in ten a download", "/s", at_least(16_667))
        yield Metric(f"log_downloads_per_second_{database}", "the same, all downloads", "/s")
    yield Metric("log_import_rss_mb", "peak memory of an import of downloads", "MB", at_most(150))


METRICS = tuple(_database_metrics())
