"""Stops the worker while single requests of a client are under way, and counts what that costs."""

import asyncio
import signal
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import redis

from tests.support.faults.service import ACME_KEY, FaultyService
from tests.support.servers.event_loop import wait_until_async
from valetkey import AsyncClient, NoAnswer
from valetkey.crypto.keys import dump_private_key
from worker.shared.worker_states import queue_lengths

_AFTER_STOP = 30.0  # seconds by which the client's timeout exceeds the stop
_SETTLE_SECONDS = 20.0
_ANSWERED = '"answered"'

Row = dict[str, Any]


class _Meter:
    """Counts the messages that a client sends, and notes when it is answered."""

    def __init__(self, client: AsyncClient) -> None:
        self.sends: Counter[str] = Counter()
        self.resumed_at = float("inf")
        self.first_answer: float | None = None
        self.failed = 0
        self._transport = client._dispatcher._transport
        self._send, self._transport.send = self._transport.send, self._count  # type: ignore[assignment, method-assign]

    async def _count(self, task_id: str, *message: Any) -> None:
        await self._send(task_id, *message)
        self.sends[task_id] += 1

    async def request(self, client: AsyncClient, key: str, timeout: float) -> None:
        try:
            await client.download("demo", key).result(timeout)
        except NoAnswer:
            self.failed += 1
            return
        waited = time.monotonic() - self.resumed_at
        if waited >= 0 and self.first_answer is None:
            self.first_answer = waited


def run_stall(service: FaultyService, requests: int, seconds: float) -> Row:
    """Stop the worker's process group for some seconds with `requests` under way.

    Returns a row of the table: what failed, the messages sent, sent again and processed, the
    longest queue, the seconds until the first answer, and the messages left at the end.
    """
    return asyncio.run(_run_stall(service, requests, seconds))


async def _run_stall(service: FaultyService, requests: int, seconds: float) -> Row:
    urls = service.broker.url(0), service.broker.url(1)
    key = dump_private_key(ACME_KEY)
    client = AsyncClient(*urls, key=key, requested_by="stall", exit_timeout=None)
    meter = _Meter(client)
    await client.download("demo", "acme/first").result(60)
    processed = service.worker.count_in_log(_ANSWERED)
    meter.sends.clear()
    service.worker.send(signal.SIGSTOP)
    began = time.monotonic()
    names = [f"acme/stall/{number}" for number in range(requests)]
    waits = [
        asyncio.ensure_future(meter.request(client, name, seconds + _AFTER_STOP)) for name in names
    ]
    longest = 0
    with redis.Redis.from_url(urls[0]) as broker:
        while time.monotonic() < began + seconds:
            await asyncio.sleep(0.1)
            longest = max(longest, sum(queue_lengths(broker).values()))
        meter.resumed_at = time.monotonic()
        service.worker.send(signal.SIGCONT)
        await asyncio.wait(waits)
        took = time.monotonic() - meter.resumed_at
        left = sum(queue_lengths(broker).values())
        with suppress(TimeoutError):  # they count as processed, if they are
            await wait_until_async(lambda: not sum(queue_lengths(broker).values()), _SETTLE_SECONDS)
    await client.close()
    return {
        "database": service.engine.dialect.name,
        "under way": requests,
        "stop (s)": seconds,
        "failed": meter.failed,
        "messages": len(meter.sends),
        "sent again": meter.sends.total() - len(meter.sends),
        "longest queue": longest,
        "processed": service.worker.count_in_log(_ANSWERED) - processed,
        "first answer (s)": meter.first_answer and round(meter.first_answer, 1),
        "all answered (s)": round(took, 1),
        "left": left,
    }
