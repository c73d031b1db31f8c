"""A model of larger loads: what they need, what breaks first, and what to add.

It only adds: the parts of the service share no work, so twice the requests cost twice as much. It
knows nothing of networks, of other programs on the machines, or of disks slower than the one that
the costs were measured on.
"""

from dataclasses import dataclass
from math import ceil, inf
from typing import NamedTuple

from bench.capacity.costs import CHUNK_ITEMS, Cost, Costs

BUSY = 0.7
"""The share of its time that a part may be busy, before requests wait for each other too long."""
PROCESSES = 2  # of the default settings
REDIS_GB = 1.0
DISK_GB = 5.0  # a day: 500 GB hold a hundred days
DATABASE_CORES = 2
CONNECTIONS = 97  # that PostgreSQL's own defaults leave to others than superusers
_RESULT_SECONDS = 900  # the longest time that a result stays in Redis
_WAITING_SECONDS = 60  # of requests that wait in Redis while no worker runs
_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Load:
    """The load of a day: links in batches, within some hours of the night, and single links."""

    batch_links_a_day: float
    batch_hours: float
    singles_a_second: float

    def times(self, factor: float) -> "Load":
        """Return a load that is larger by a factor, in the same hours."""
        links, singles = self.batch_links_a_day * factor, self.singles_a_second * factor
        return Load(links, self.batch_hours, singles)

    @property
    def chunks_a_second(self) -> float:
        """The rate of chunks while batches run."""
        return self.batch_links_a_day / CHUNK_ITEMS / (self.batch_hours * 3_600)


TODAY = Load(batch_links_a_day=1_000_000, batch_hours=2, singles_a_second=10)
FACTORS = (1, 10, 100, 1_000)


class Need(NamedTuple):
    """The amount of one part that a load needs, the available amount, and a remedy."""

    part: str
    amount: float
    available: float = inf
    remedy: str = ""

    @property
    def share(self) -> float:
        """The amount as a share of what is available: above 1, the part breaks."""
        return self.amount / self.available


class Workers(NamedTuple):
    """The issuing processes that a load needs, and the `worker run` that read its messages."""

    processes: int
    runs: int


def needs(load: Load, costs: Costs) -> list[Need]:
    """Return what a load needs while its batches run."""
    rates = [
        (load.chunks_a_second, costs.kinds["chunk"]),
        (load.singles_a_second, costs.kinds["single"]),
    ]

    def total(name: str) -> float:
        return sum(rate * float(getattr(cost, name)) for rate, cost in rates)

    processes = ceil(sum(rate / cost.per_second for rate, cost in rates) / BUSY)
    redis_bytes = _RESULT_SECONDS * total("result_bytes") + _WAITING_SECONDS * total(
        "message_bytes"
    )
    rows = load.chunks_a_second * CHUNK_ITEMS + load.singles_a_second
    common = [
        Need("issuing processes", processes, PROCESSES, "`VALETKEY_CONCURRENCY`, then machines"),
        Need("queue reader, cores", total("reader_cpu_us") / 1e6, BUSY, "another `worker run`"),
        Need("Redis, cores", total("redis_cpu_us") / 1e6, BUSY, "a second Redis for results"),
        Need("Redis, GB", redis_bytes / 1e9, REDIS_GB, "memory and `maxmemory`; manifests"),
        Need("disk, GB a day", _disk_gb(load, costs), DISK_GB, "disk, and `audit prune` sooner"),
        Need("commits a second", sum(rate for rate, _ in rates)),
        Need("audit rows a second", rows),
    ]
    if costs.database == "sqlite":
        return [*common, Need("SQLite's writer", total("write_us") / 1e6, BUSY, "PostgreSQL")]
    database, held = total("database_cpu_us") / 1e6, processes * costs.connections
    return [
        *common,
        Need("PostgreSQL, cores", database, DATABASE_CORES * BUSY, "cores for PostgreSQL"),
        Need("connections", held, CONNECTIONS, "`max_connections`"),
        Need("WAL, MB a second", total("wal_bytes") / 1e6),
    ]


def broken(found: list[Need]) -> list[Need]:
    """Return the parts that are too small for a load, in the order in which they break.

    All needs grow with the load, so the largest share is the first to reach 1.
    """
    return sorted((n for n in found if n.share > 1), key=lambda n: n.share, reverse=True)


def predicted_per_second(cost: Cost, processes: int, cores: int, *, one_writer: bool) -> float:
    """Return the requests a second of one kind on a machine that runs everything."""
    limits = [processes * cost.per_second, cores * 1e6 / cost.cpu_us]
    limits += [1e6 / cost.reader_cpu_us, 1e6 / cost.redis_cpu_us, 1e6 / cost.producer_cpu_us]
    if one_writer:
        limits.append(1e6 / cost.write_us)
    return min(limits)


def workers_for(links: float, cost: Cost, items: int, *, one_writer: bool) -> Workers | None:
    """Return what links a second need, of requests with so many items each.

    None if one writer of the database is not enough for them.
    """
    rate = links / items
    if one_writer and rate * cost.write_us / 1e6 > BUSY:
        return None
    readers = rate * cost.reader_cpu_us / 1e6
    return Workers(ceil(rate / cost.per_second / BUSY), ceil(readers / BUSY))


def per_core(cost: Cost, items: int) -> float:
    """Return the grants a second for each core of the service and its database."""
    return items * 1e6 / (cost.cpu_us - cost.producer_cpu_us)


def _disk_gb(load: Load, costs: Costs) -> float:
    chunks = load.batch_links_a_day / CHUNK_ITEMS
    batches = chunks * costs.kinds["chunk"].database_bytes
    singles = load.singles_a_second * _DAY * costs.kinds["single"].database_bytes
    return (batches + singles) / 1e9
