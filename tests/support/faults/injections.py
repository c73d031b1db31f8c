"""The faults. Each is injected under load, and ends with everything running again."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import valetkey.delivery.retransmit
from tests.support.faults.service import FaultyService, WorkerGroup
from tests.support.servers.databases import execute_statements
from tests.support.servers.waiting import is_running, wait_until

# The limit applies to the log as well. SQLite's write-ahead log soon exceeds it: it grows to 4 MB.
_LOG_ROOM = 2**18  # bytes

_DISK_SIZE = 256 * 2**20  # bytes; holds some million audit rows
CAN_LIMIT_FILES = sys.platform == "linux"
"""True if the limits of running processes can be changed."""

Inject = Callable[[FaultyService, Random], None]


@dataclass(frozen=True)
class Fault:
    """A fault: its name in the table, and the function that injects it once."""

    name: str
    inject: Inject


def kill_workers(service: FaultyService, random: Random) -> None:
    """Kill the worker with all its children: at any moment, or while the broker hands over."""
    if random.random() < 1 / 2:
        stop_with_messages_waiting(service)
    service.worker.kill()


def stop_with_messages_waiting(service: FaultyService) -> None:
    """Stop the worker, and wait until messages are in its socket or in the queue behind it.

    The broker has then handed over every message that the worker had asked for. Killed now, the
    worker has taken those messages from the queue without having acknowledged or noted them.
    """
    service.worker.send(signal.SIGSTOP)
    wait_until(service.broker.queue_length, what="producers send messages")


def kill_child(service: FaultyService, random: Random) -> None:
    """Kill one of the two pool children with the most work; the worker replaces it."""
    child = random.choice(service.worker.working_children()[:2])
    service.worker.kill_process(child.pid)


def kill_broker(service: FaultyService, random: Random) -> None:
    """Kill the broker, and start it again with its data, soon or after some connection attempts."""
    service.broker.kill()
    _wait(random.uniform(0, 2))
    service.broker.start()


def demote_broker(service: FaultyService, random: Random) -> None:
    """Let the broker be a replica without a primary for a while, as in a failover."""
    with service.broker.demoted():
        _wait(random.uniform(1, 5))


def freeze_children(service: FaultyService, _random: Random) -> None:
    """Stop the pool children alone, until their parent has replaced them."""
    children = [child.pid for child in service.worker.working_children()[:2]]
    for pid in children:
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: not any(map(is_running, children)), 60, "frozen children are replaced")


def flush_broker(service: FaultyService, _random: Random) -> None:
    service.broker.flush()


def stop_postgres(service: FaultyService, random: Random) -> None:
    """Stop PostgreSQL until the worker notices, and start it again."""
    assert service.postgres is not None
    before = service.worker.postponed
    service.postgres.stop(random.choice(("fast", "immediate")))
    try:
        wait_until(lambda: service.worker.postponed > before, what="the worker misses PostgreSQL")
    finally:
        service.postgres.start()


def make_postgres_read_only(service: FaultyService, _random: Random) -> None:
    """Let PostgreSQL take no writes until the worker notices, as in the window of a failover."""
    before, url = service.worker.postponed, service.engine.url
    setting = "ALTER SYSTEM SET default_transaction_read_only = "
    execute_statements(url, f"{setting} on", "SELECT pg_reload_conf()")
    try:
        wait_until(lambda: service.worker.postponed > before, what="the worker misses PostgreSQL")
    finally:
        execute_statements(url, f"{setting} off", "SELECT pg_reload_conf()")


def fill_up_disk(service: FaultyService, _random: Random) -> None:
    """Fill the disk of the SQLite database until the worker notices, and free it again."""
    before = service.worker.postponed
    with full_disk(service.disk if service.is_mounted else None, service.worker):
        wait_until(lambda: service.worker.postponed > before, what="the worker misses the disk")


@contextmanager
def full_disk(disk: Path | None, worker: WorkerGroup) -> Iterator[None]:
    """Fill a small file system until the block ends.

    If none could be mounted, a limit on the size of files makes the writes of the worker fail.
    """
    if disk is None:
        assert CAN_LIMIT_FILES
        _limit_files(worker, worker.log_size + _LOG_ROOM)
    else:
        with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(2**16))
    try:
        yield
    finally:
        if disk is None:
            _limit_files(worker, -1)
        else:
            (disk / "filler").unlink()


def _limit_files(worker: WorkerGroup, size: int) -> None:
    """Make the worker fail to write beyond this size to any file; -1 removes the limit."""
    if sys.platform == "linux":
        for process in worker.processes():
            with suppress(ProcessLookupError):
                _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, hard))


def freeze_workers(service: FaultyService, random: Random) -> None:
    """Stop the worker until messages that wait were sent again, then let it continue."""
    service.worker.send(signal.SIGSTOP)
    # The first interval with its longest jitter.
    _wait(valetkey.delivery.retransmit.FIRST_INTERVAL * random.uniform(1.6, 2))
    service.worker.send(signal.SIGCONT)


def stop_workers(service: FaultyService, _random: Random) -> None:
    """Stop the worker orderly, with SIGTERM, and start another."""
    service.worker.stop_orderly()


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """Mount a small file system in a folder; yield None if this process may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_SIZE},mode=700", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    try:
        yield folder
    finally:
        command = ["umount", "--lazy", str(folder)]
        subprocess.run(command, check=True)


def _wait(seconds: float) -> None:
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end, seconds + 1)


KILL_WORKERS = Fault("kill -9 of the worker's process group", kill_workers)
ON_SQLITE = (
    KILL_WORKERS,
    Fault("kill -9 of a pool child", kill_child),
    Fault("kill -9 of the broker, restarted with its data", kill_broker),
    Fault("FLUSHALL", flush_broker),
)
MORE_ON_SQLITE = (
    Fault("worker frozen (SIGSTOP), then continued", freeze_workers),
    Fault("worker stopped orderly (SIGTERM)", stop_workers),
    Fault("broker is a replica for a while", demote_broker),
    Fault("pool children frozen (SIGSTOP)", freeze_children),
)
FULL_DISK = Fault("full disk under SQLite", fill_up_disk)
READ_ONLY_POSTGRES = Fault("PostgreSQL read-only for a while", make_postgres_read_only)
STOPPED_POSTGRES = Fault("PostgreSQL stopped (fast or immediate), started again", stop_postgres)
