"""The memory in Redis of requests that wait, and of results that are stored."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from bench import service
from bench.capacity.costs import CHUNK_ITEMS
from bench.processes import family, list_processes
from valetkey import Client
from valetkey.delivery.transport import RESULT_PREFIX
from valetkey.wire import BULK_QUEUE, INTERACTIVE_QUEUE
from worker.dev.stack import Stack
from worker.shared.threads import call_in_background

_LINKS = _CHUNKS = 12  # a client has at most 32 messages under way
_SEND_SECONDS = 30.0


def message_bytes(stack: Stack) -> dict[str, float]:
    """Return the memory of a waiting request of each kind, sent while no worker reads it."""
    with (
        redis.Redis.from_url(stack.info.broker_url) as server,
        service.signing_client(stack) as client,
    ):
        client.download(service.BUCKET, "2026/11/u-1.pdf").result()  # opens the connections
        with _stopped_workers(stack):
            links = [client.download(service.BUCKET, "2026/11/u-1.pdf") for _ in range(_LINKS)]
            count, size = _waiting(server)
            # In a thread: a client withdraws from the queue what nobody waits for.
            batch = call_in_background(lambda: _request_batch(client))
            _wait_for_messages(server, count + _CHUNKS)
            both, both_size = _waiting(server)
        for link in links:
            link.result()
        batch.result()
    single = size / count
    return {"single": single, "company": single, "chunk": (both_size - size) / (both - count)}


def _request_batch(client: Client) -> None:
    keys = [f"2026/11/u-{number}.pdf" for number in range(_CHUNKS * CHUNK_ITEMS)]
    for _ in client.download_many(service.BUCKET, keys):
        pass


def _wait_for_messages(server: "redis.Redis", count: int) -> None:
    end = time.monotonic() + _SEND_SECONDS
    while _waiting(server)[0] < count:
        if time.monotonic() > end:
            raise TimeoutError("the messages of a batch were not sent")
        time.sleep(0.01)


def take_results(stack: Stack) -> int:
    """Return the memory of all results, and delete them: those of the next kind come alone."""
    with redis.Redis.from_url(stack.info.result_url) as server:
        names = list(server.scan_iter(f"{RESULT_PREFIX}*", count=1_000))
        total = sum(server.memory_usage(name) or 0 for name in names)
        for name in names:
            server.delete(name)
    return total


def _waiting(server: "redis.Redis") -> tuple[int, int]:
    count = size = 0
    for queue in (INTERACTIVE_QUEUE, BULK_QUEUE):
        count += int(server.llen(queue))
        size += int(server.memory_usage(queue, samples=0) or 0)
    return count, size


@contextmanager
def _stopped_workers(stack: Stack) -> Iterator[None]:
    pids = [process.pid for process in family(list_processes(), stack.info.pids["worker"])]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)
