"""The processes of a service: who started whom, their memory and the CPU that they have used."""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_KIB = 1024
_TIMES = slice(11, 15)  # utime, stime, cutime and cstime, counted after the name of the command


class Process(NamedTuple):
    """A row of the process table; resident_mb includes memory shared with other processes."""

    pid: int
    parent: int
    resident_mb: float


def list_processes() -> list[Process]:
    """Return all processes of this machine."""
    command = ["ps", "-axo", "pid=,ppid=,rss="]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = (map(int, line.split()) for line in output.splitlines())
    return [Process(pid, parent, kib * _KIB / 1e6) for pid, parent, kib in rows]


def family(processes: Iterable[Process], root: int) -> list[Process]:
    """Return a process and all processes below it, parents before their children."""
    table = list(processes)
    found = [process for process in table if process.pid == root]
    for parent in found:
        found += (process for process in table if process.parent == parent.pid)
    return found


def pool_children(processes: Iterable[Process], root: int) -> list[Process]:
    """Return the processes below `worker run` that do the work: those without children.

    `worker run` starts Celery, whose process reads the queues and starts the children of the pool.
    """
    members = family(processes, root)
    parents = {process.parent for process in members}
    return [process for process in members if process.pid not in parents]


class CpuTime(NamedTuple):
    """The CPU seconds that a process has used, and those of its children that have ended."""

    own: float
    ended_children: float


def cpu_time(pid: int) -> CpuTime:
    """Return the CPU that a process has used. Linux only."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    user, system, children_user, children_system = map(int, stat.rpartition(")")[2].split()[_TIMES])
    ticks = os.sysconf("SC_CLK_TCK")
    return CpuTime((user + system) / ticks, (children_user + children_system) / ticks)


def proportional_mb(pid: int) -> float | None:
    """Return a process's memory, where pages shared by n processes count 1/n; None if unknown.

    Only Linux tells, and only to the process's own user.
    """
    path = Path(f"/proc/{pid}/smaps_rollup")
    if not path.exists():
        return None
    sizes = (line.split()[1] for line in path.read_text().splitlines() if line.startswith("Pss:"))
    return int(next(sizes)) * _KIB / 1e6
