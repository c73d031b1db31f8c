"""The memory of processes, and of results in Redis."""

import subprocess
from pathlib import Path

import redis

from valetkey.delivery.transport import RESULT_PREFIX

_KIB = 1024


def resident_mb(pid: int) -> float:
    """Return a process's resident memory in MB, including memory shared with other processes."""
    return next(size for process, _, size in _processes() if process == pid)


def peak_resident_mb(pid: int) -> float:
    """Return the largest resident memory that a process has had, in MB, or 0 if it has ended.

    A child's ru_maxrss is no less than its parent's memory at the fork (proc_pid_status(5)).
    """
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    values = (line.split()[1] for line in status if line.startswith("VmHWM:"))
    return int(next(values, "0")) * _KIB / 1e6


def largest_child_mb(pid: int) -> float:
    """Return the resident memory in MB of the process's largest child."""
    return max(size for _, parent, size in _processes() if parent == pid)


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


def _processes() -> list[tuple[int, int, float]]:
    command = ["ps", "-axo", "pid=,ppid=,rss="]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = (map(int, line.split()) for line in output.splitlines())
    return [(pid, parent, kib * _KIB / 1e6) for pid, parent, kib in rows]
