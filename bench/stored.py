"""What answers take in Redis."""

import redis

from valetkey.delivery.transport import RESULT_PREFIX


def bytes_per_link(url: str, chunk: int) -> float:
    """How many bytes of Redis an answered link takes, where all answers are to whole chunks."""
    with redis.Redis.from_url(url) as store:
        names = list(store.scan_iter(f"{RESULT_PREFIX}*", count=1_000))
        return sum(store.memory_usage(name) or 0 for name in names) / len(names) / chunk


def peak(url: str) -> float:
    """How much memory Redis had in use at most since it began, in MB."""
    with redis.Redis.from_url(url) as store:
        return float(store.info("memory")["used_memory_peak"]) / 1e6
