"""The memory of processes, and of results in Redis."""

from pathlib import Path
from typing import NamedTuple

import redis

from bench.processes import list_processes, pool_children, proportional_mb
from valetkey.delivery.transport import RESULT_PREFIX

_KIB = 1024


class ChildMemory(NamedTuple):
    """The memory of a process in MB: all that is resident, and its share of that."""

    resident: float
    proportional: float | None


def resident_mb(pid: int) -> float:
    """Return a process's resident memory in MB, including memory shared with other processes."""
    return next(process.resident_mb for process in list_processes() if process.pid == pid)


def peak_resident_mb(pid: int) -> float:
    """Return the largest resident memory that a process has had, in MB, or 0 if it has ended.

    A child's ru_maxrss is no less than its parent's memory at the fork (proc_pid_status(5)).
    """
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    values = (line.split()[1] for line in status if line.startswith("VmHWM:"))
    return int(next(values, "0")) * _KIB / 1e6


def largest_child(pid: int) -> ChildMemory:
    """Return the memory of the largest child of the pool below `worker run`."""
    child = max(pool_children(list_processes(), pid), key=lambda process: process.resident_mb)
    return ChildMemory(child.resident_mb, proportional_mb(child.pid))


def redis_bytes_per_link(url: str, chunk_items: int) -> float:
    """Return the bytes that a link's result takes, if all results are of chunks of this size."""
    with redis.Redis.from_url(url) as server:
        names = list(server.scan_iter(f"{RESULT_PREFIX}*", count=1_000))
        total = sum(server.memory_usage(name) or 0 for name in names)
        return total / len(names) / chunk_items


def redis_peak_mb(url: str) -> float:
    """Return the most memory that the server has had in use since it started, in MB."""
    with redis.Redis.from_url(url) as server:
        return float(server.info("memory")["used_memory_peak"]) / 1e6
