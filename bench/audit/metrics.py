"""The metrics of the audit log."""

from collections.abc import Iterator

from bench.metrics import Metric, at_least, at_most


def _database_metrics() -> Iterator[Metric]:
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
            yield Metric(f"audit_{name}_p95_ms_{database}", f"{text}, p95", "ms", at_most(20))
        yield Metric(f"audit_whose_p50_ms_{database}", "whose a link is", "ms")
        yield Metric(f"audit_whose_p95_ms_{database}", "whose a link is, p95", "ms", at_most(5))
        for name in (*(name for name in pages if name != "list_absent_key"), "whose"):
            text = f"{pages.get(name, 'the grant of an id')}, as a command"
            yield Metric(f"audit_{name}_command_p50_ms_{database}", text, "ms")
            yield Metric(
                f"audit_{name}_command_p95_ms_{database}", f"{text}, p95", "ms", at_most(400)
            )
        yield Metric(f"audit_count_day_p50_ms_{database}", "count --by day over a month", "ms")
        yield Metric(f"audit_count_day_p95_ms_{database}", "the same, p95", "ms", at_most(2_000))
        yield Metric(f"audit_verify_rate_{database}", "rows verified", "/s", at_least(100_000))
        for file_format in ("csv", "jsonl", "parquet"):
            text = f"rows exported as {file_format}"
            yield Metric(
                f"audit_export_{file_format}_rate_{database}", text, "/s", at_least(200_000)
            )
        for name, text, goal in (
            ("beside_rows", "issuing: beside the rows / beside none", 0.9),
            ("vs_baseline", "issuing: this checkout / the baseline", 0.93),
        ):
            yield Metric(f"audit_issuing_{name}_{database}", text, "x", at_least(goal))
            for end in ("least", "most"):
                yield Metric(f"audit_issuing_{name}_{end}_{database}", f"{end} of the rounds", "x")


METRICS = tuple(_database_metrics())
