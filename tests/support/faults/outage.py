"""Takes a server away while requests wait, and measures the first answer after its return.

Three clients have requests under way: one after the other; many, which travel in bundles; and
batches of more messages than a worker keeps in memory while it tries them again.
"""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.faults.service import ACME_KEY, FaultyService
from tests.support.servers.external import PostgresServer
from valetkey import AsyncClient, ValetkeyError
from valetkey.crypto.keys import dump_private_key

REQUESTS = 100
"""The number of requests that travel in bundles, and the number of messages of batches."""
_AFTER_OUTAGE = 60.0  # seconds by which the clients' timeout exceeds the outage
_ANSWERED = '"answered"'
_BATCHES = 4

Row = dict[str, Any]


@dataclass(frozen=True)
class Outage:
    """A server that is away: its name in the table, and how it goes and returns."""

    name: str
    begin: Callable[[FaultyService], None]
    end: Callable[[FaultyService], None]


def _postgres(service: FaultyService) -> PostgresServer:
    assert service.postgres is not None
    return service.postgres


KILLED_REDIS = Outage(
    "Redis killed", lambda service: service.broker.kill(), lambda service: service.broker.start()
)
FROZEN_REDIS = Outage(
    "Redis frozen",
    lambda service: service.broker.send(signal.SIGSTOP),
    lambda service: service.broker.send(signal.SIGCONT),
)
STOPPED_POSTGRES = Outage(
    "PostgreSQL stopped",
    lambda service: _postgres(service).stop("immediate"),
    lambda service: _postgres(service).start(),
)
FROZEN_POSTGRES = Outage(
    "PostgreSQL frozen",
    lambda service: _postgres(service).send(signal.SIGSTOP),
    lambda service: _postgres(service).send(signal.SIGCONT),
)


class _Waits:
    """The requests of a client, how they ended, and the time of the first answer after a return."""

    def __init__(self, client: AsyncClient, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        self.failed = 0
        self.returned_at = float("inf")
        self.first_answer = float("inf")

    async def request(self, key: str) -> None:
        try:
            await self._client.download("demo", key).result(self._timeout)
        except ValetkeyError:
            self.failed += 1
            return
        self._note_answer()

    async def request_batches(self) -> None:
        await asyncio.gather(*map(self._request_batch, range(_BATCHES)))

    async def _request_batch(self, number: int) -> None:
        keys = [f"acme/outage/{number}-{item}" for item in range(REQUESTS // _BATCHES)]
        try:
            batch = self._client.download_many("demo", keys, chunk_size=1)
            async for _ in batch.as_completed(self._timeout):
                self._note_answer()
        except ValetkeyError:
            self.failed += 1

    def _note_answer(self) -> None:
        waited = time.monotonic() - self.returned_at
        if waited >= 0:
            self.first_answer = min(self.first_answer, waited)

    async def request_each(self, is_over: Callable[[], bool]) -> None:
        number = 0
        while not is_over():
            number += 1
            await self.request(f"acme/outage/one-{number}")

    async def request_all(self) -> None:
        keys = [f"acme/outage/{number}" for number in range(REQUESTS)]
        await asyncio.gather(*map(self.request, keys))


def run_outage(service: FaultyService, outage: Outage, seconds: float) -> Row:
    """Take a server away for some seconds; return a row of the table."""
    return asyncio.run(_run_outage(service, outage, seconds))


async def _run_outage(service: FaultyService, outage: Outage, seconds: float) -> Row:
    urls, key = (service.broker.url(0), service.broker.url(1)), dump_private_key(ACME_KEY)
    clients = [AsyncClient(*urls, key=key, requested_by="outage") for _ in range(3)]
    one, many, bulk = waits = [_Waits(client, seconds + _AFTER_OUTAGE) for client in clients]
    for each in waits:
        await each.request("acme/first")
    processed = service.worker.count_in_log(_ANSWERED)
    async with asyncio.TaskGroup() as group:
        with _away(service, outage):
            group.create_task(one.request_each(lambda: one.first_answer < float("inf")))
            group.create_task(many.request_all())
            group.create_task(bulk.request_batches())
            await asyncio.sleep(seconds)
        for each in waits:
            each.returned_at = time.monotonic()
    took = time.monotonic() - one.returned_at
    for client in clients:
        await client.close()
    return {
        "database": service.engine.dialect.name,
        "outage": outage.name,
        "seconds": seconds,
        "failed": sum(each.failed for each in waits),
        "first answer (s)": round(min(each.first_answer for each in waits), 1),
        "one after the other (s)": round(one.first_answer, 1),
        "all answered (s)": round(took, 1),
        "processed": service.worker.count_in_log(_ANSWERED) - processed,
    }


@contextmanager
def _away(service: FaultyService, outage: Outage) -> Iterator[None]:
    outage.begin(service)
    try:
        yield
    finally:
        outage.end(service)
