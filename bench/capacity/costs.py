"""The cost of one message, by the kind of its request: the input of the model."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS

CHUNK_ITEMS = DEFAULT_CHUNK_ITEMS
KINDS = ("single", "company", "chunk")
"""One link in a message of its own; one of many that coroutines share a client for; 600 links."""
DATABASES = ("sqlite", "postgres")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of one request; times are in microseconds.

    `per_second` is the rate of one issuing process. `write_us` is the time that the database's
    writer is taken: on SQLite no other process can write meanwhile, on PostgreSQL no other request
    of the same tenant, at most.
    """

    per_second: float
    worker_cpu_us: float
    reader_cpu_us: float
    redis_cpu_us: float
    database_cpu_us: float
    producer_cpu_us: float
    write_us: float
    database_bytes: float
    wal_bytes: float
    fsyncs: float
    message_bytes: float
    result_bytes: float

    @property
    def cpu_us(self) -> float:
        """The CPU of all processes on a machine that runs everything, the producer too."""
        service = self.worker_cpu_us + self.reader_cpu_us
        return service + self.redis_cpu_us + self.database_cpu_us + self.producer_cpu_us


def cost_names(database: str) -> tuple[str, ...]:
    """Return the names of the costs that a database has."""
    names = tuple(cost.name for cost in fields(Cost))
    # SQLite's own work is done in the issuing process, and nobody counts its log.
    absent = {"database_cpu_us", "wal_bytes", "fsyncs"} if database == "sqlite" else set()
    return tuple(name for name in names if name not in absent)


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs of the kinds of requests on one database."""

    database: str
    kinds: Mapping[str, Cost]
    connections: float
    """The connections of one issuing process to PostgreSQL; 0 on SQLite."""

    @classmethod
    def from_measurements(cls, measurements: Mapping[str, float | None], database: str) -> Self:
        """Read the costs from the measurements that `named` returned."""

        def value(name: str) -> float:
            return measurements.get(f"capacity_{database}_{name}") or 0.0

        kinds = {
            kind: Cost(**{cost.name: value(f"{kind}_{cost.name}") for cost in fields(Cost)})
            for kind in KINDS
        }
        return cls(database, kinds, value("connections"))

    def named(self) -> dict[str, float | None]:
        """Return the costs as measurements."""
        values = {
            f"{kind}_{cost.name}": float(getattr(self.kinds[kind], cost.name))
            for kind in KINDS
            for cost in fields(Cost)
            if cost.name in cost_names(self.database)
        }
        if self.database == "postgres":
            values["connections"] = self.connections
        return {f"capacity_{self.database}_{name}": value for name, value in values.items()}
