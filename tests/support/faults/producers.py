"""Producers with the client, which sends messages again: blocking and for asyncio; and without."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from celery import Celery
from celery.exceptions import TimeoutError as NoResult
from celery.result import AsyncResult

from tests.support.builders.messages import grant_message
from tests.support.faults.comparison import Record, ToldResult, told_grant
from tests.support.faults.run import ANSWER_SECONDS, Producer
from tests.support.faults.service import ACME_KEY, GLOBEX_KEY, FaultyService
from valetkey import AsyncClient, BatchHandle, Client, Grant, Item, Refusal, Refused
from valetkey.crypto.keys import PrivateKey, dump_private_key
from valetkey.session import new_id
from valetkey.wire import INTERACTIVE_QUEUE, ISSUE_TASK

_EXPIRES_IN = 3_600  # seconds: no grant expires during a run
_SINGLES = 6  # requests of one item that are sent before the first result is read
_PLAIN_REQUESTS = 8  # the same, of a producer with plain Celery
_REFUSED_EVERY = 11  # every such item is outside of the tenant's prefixes
_SMALL, _LARGE = 20, 1_250  # items; the larger batch has three chunks


@dataclass
class ClientProducer:
    """A producer with a Client. call makes one call, with the number of the call."""

    name: str
    urls: tuple[str, str]
    key: PrivateKey
    call: "Callable[[ClientProducer, Client, Record, int], None]"

    @contextmanager
    def running(self, record: Record) -> Iterator[Callable[[int], object]]:
        key = dump_private_key(self.key)
        with closing(Client(*self.urls, key=key, requested_by=self.name)) as client:
            yield partial(self.call, self, client, record)

    def keys(self, number: int, items: int) -> list[str]:
        """Return object keys that no other call uses, some of which are not allowed."""
        prefixes = (self.key.tenant, "elsewhere")
        return [
            f"{prefixes[item % _REFUSED_EVERY == _REFUSED_EVERY - 1]}/{self.name}/{number}/{item}"
            for item in range(items)
        ]


def request_singles(producer: ClientProducer, client: Client, record: Record, number: int) -> None:
    """Request a few grants one by one, then wait for each."""
    handles = []
    for key in producer.keys(number, _SINGLES):
        handle = client.download("demo", key, expires_in=_EXPIRES_IN)
        record.ask(handle.id, [key])
        handles.append((handle, key))
    for handle, key in handles:
        result: Grant | Refusal
        try:
            result = handle.result(ANSWER_SECONDS)
        except Refused as error:
            result = error.refusal
        record.tell((handle.id, 0), result, key)


def request_small_batch(
    producer: ClientProducer, client: Client, record: Record, number: int
) -> None:
    """Request a batch that is still interactive: PUTs of different sizes."""
    keys = producer.keys(number, _SMALL)
    items = [Item(key=key, size=100 + size) for size, key in enumerate(keys)]
    _request(partial(client.put_many, "demo", items, max_size=1_000), record, keys)


def request_large_batch(
    producer: ClientProducer, client: Client, record: Record, number: int
) -> None:
    """Request a batch of several chunks: downloads."""
    keys = producer.keys(number, _LARGE)
    _request(partial(client.download_many, "demo", keys), record, keys)


def _request(request: Callable[..., BatchHandle], record: Record, keys: Sequence[str]) -> None:
    batch_id = new_id()
    record.ask(batch_id, keys)
    handle = request(batch_id=batch_id, expires_in=_EXPIRES_IN)
    for number, result in enumerate(handle.results(ANSWER_SECONDS)):
        record.tell((handle.id, number), result, keys[number])


@dataclass
class AsyncProducer:
    """A producer whose AsyncClient requests batches of these sizes at the same time."""

    name: str
    urls: tuple[str, str]
    key: PrivateKey
    sizes: tuple[int, ...]

    @contextmanager
    def running(self, record: Record) -> Iterator[Callable[[int], object]]:
        key = dump_private_key(self.key)
        client = AsyncClient(*self.urls, key=key, requested_by=self.name, exit_timeout=None)
        with asyncio.Runner() as runner:
            try:
                yield lambda number: runner.run(self._request_all(client, record, number))
            finally:
                runner.run(client.close())

    async def _request_all(self, client: AsyncClient, record: Record, number: int) -> None:
        calls = [
            self._request(client, record, f"{number}-{index}", size)
            for index, size in enumerate(self.sizes)
        ]
        await asyncio.gather(*calls)

    async def _request(self, client: AsyncClient, record: Record, name: str, size: int) -> None:
        keys = [f"{self.key.tenant}/{self.name}/{name}/{item}" for item in range(size)]
        batch_id = new_id()
        record.ask(batch_id, keys)
        handle = client.download_many("demo", keys, batch_id=batch_id, expires_in=_EXPIRES_IN)
        number = 0
        async for result in handle.results(ANSWER_SECONDS):
            record.tell((batch_id, number), result, keys[number])
            number += 1


@dataclass
class PlainProducer:
    """Sends requests of one item for the tenant queueing once, with plain Celery, without a client.

    It waits for each result once.
    """

    name: str
    urls: tuple[str, str]
    wait_seconds: float

    @contextmanager
    def running(self, record: Record) -> Iterator[Callable[[int], object]]:
        with self.running_app() as app:
            yield lambda number: self.receive(self.send(app, record, number), record)

    @contextmanager
    def running_app(self) -> Iterator[Celery]:
        """Yield a Celery application for the broker and the result store."""
        broker, results = self.urls
        with Celery("plain", broker=broker, backend=results, set_as_current=False) as app:
            yield app
            # Otherwise Celery unsubscribes from each result when Python deletes it, which may be
            # after the broker was stopped, and then tries to reach the broker for 20 seconds.
            app.backend.result_consumer._pubsub = None

    def send(self, app: Celery, record: Record, number: int) -> list[tuple[str, AsyncResult]]:
        """Send requests; return the object key and the result of each."""
        results = []
        for item in range(_PLAIN_REQUESTS):
            key = f"queueing/{self.name}/{number}/{item}"
            message = grant_message([key], tenant="queueing")
            message["grant"]["expires_in"] = 3_600
            record.ask(message["batch"], [key])
            task = app.send_task(
                ISSUE_TASK, args=[message], task_id=message["batch"], queue=INTERACTIVE_QUEUE
            )
            results.append((key, task))
        return results

    def receive(self, results: list[tuple[str, AsyncResult]], record: Record) -> None:
        """Wait for each result, a limited time for all of them together."""
        end = time.monotonic() + self.wait_seconds
        for key, task in results:
            try:
                outcome: dict[str, Any] = task.get(timeout=max(end - time.monotonic(), 0.01))
            except NoResult:
                continue
            item = outcome["items"][0] if outcome["items"] else outcome["refusal"]
            told = ToldResult(key, code=item["code"]) if "code" in item else told_grant(item)
            record.tell_result((str(task.id), 0), told)


def resending_producers(service: FaultyService) -> list[Producer]:
    """Return producers of every sort for a service; globex runs into its quota."""
    urls = (service.broker.url(0), service.broker.url(1))
    return [
        ClientProducer("singles", urls, ACME_KEY, request_singles),
        ClientProducer("small", urls, ACME_KEY, request_small_batch),
        ClientProducer("large", urls, ACME_KEY, request_large_batch),
        ClientProducer("limited", urls, GLOBEX_KEY, request_small_batch),
        AsyncProducer("async", urls, ACME_KEY, (1, 1, 1, _SMALL, _LARGE)),
        AsyncProducer("bundles", urls, ACME_KEY, (1,) * 40),
        AsyncProducer("limited bundles", urls, GLOBEX_KEY, (1, 2, 3) * 8),
    ]
