"""The metrics of the capacity: costs, the check of the model, and scale-out."""

from collections.abc import Iterator

from bench.capacity.costs import DATABASES, KINDS, cost_names
from bench.metrics import Metric, Unit, at_least

_KINDS = {
    "single": "one link, alone in its message",
    "company": "one of 256 links of an AsyncClient",
    "chunk": "a chunk",
}
_COSTS: dict[str, tuple[str, Unit]] = {
    "per_second": ("rate of one issuing process", "/s"),
    "worker_cpu_us": ("CPU of the issuing process", "µs"),
    "reader_cpu_us": ("CPU of the processes that read the queue", "µs"),
    "redis_cpu_us": ("CPU of Redis", "µs"),
    "database_cpu_us": ("CPU of PostgreSQL", "µs"),
    "producer_cpu_us": ("CPU of the producer", "µs"),
    "write_us": ("time in the transaction, or with SQLite's write lock", "µs"),
    "database_bytes": ("growth of the database", "bytes"),
    "wal_bytes": ("WAL of PostgreSQL", "bytes"),
    "fsyncs": ("flushes of that WAL", ""),
    "message_bytes": ("memory in Redis while it waits", "bytes"),
    "result_bytes": ("memory in Redis of its result", "bytes"),
}
_CHECKS: dict[str, tuple[str, Unit]] = {
    "two_per_second": ("rate of two issuing processes", "/s"),
    "predicted_per_second": ("the same, as the model predicts", "/s"),
    "predicted_vs_measured": ("that rate: predicted / measured", "x"),
}


def _capacity_metrics() -> Iterator[Metric]:
    for database in DATABASES:
        for kind in KINDS:
            costs = {name: _COSTS[name] for name in cost_names(database)}
            for name, (text, unit) in (costs | _CHECKS).items():
                full = f"capacity_{database}_{kind}_{name}"
                yield Metric(full, f"{_KINDS[kind]}: {text}", unit)


def _scale_metrics() -> Iterator[Metric]:
    for database in DATABASES:
        for n in (1, 2, 4):
            text = f"{n} issuing {'process' if n == 1 else 'processes'}"
            yield Metric(f"scale_{n}_cpu_us_{database}", f"{text}: CPU of a link", "µs")
            yield Metric(
                f"scale_{n}_links_per_second_{database}", f"{text}, on these cores: links", "/s"
            )
            if database == "postgres":
                yield Metric(
                    f"scale_{n}_database_us_{database}",
                    f"{text}: time of a link in its transaction",
                    "µs",
                )
            if n > 1:
                for name, what in (("efficiency", "CPU"), ("rate_efficiency", "rate")):
                    yield Metric(
                        f"scale_{n}_{name}_{database}",
                        f"efficiency by {what}: one process / {n} processes",
                        "x",
                        at_least(0.85),
                    )


_CONNECTIONS = Metric(
    "capacity_postgres_connections", "connections of one issuing process to PostgreSQL", ""
)
METRICS = (*_capacity_metrics(), _CONNECTIONS, *_scale_metrics())
