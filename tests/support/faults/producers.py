"""Producers with the client, which sends messages again: blocking and for asyncio."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count

from tests.support.faults.load import ANSWER_SECONDS, Producer
from tests.support.faults.record import Record
from tests.support.faults.service import ACME_KEY, GLOBEX_KEY, FaultyService
from valetkey import AsyncClient, BatchHandle, Client, Grant, Item, Refusal, Refused
from valetkey.client import new_id
from valetkey.crypto.keys import PrivateKey, dump_private_key

_EXPIRES_IN = 3_600  # seconds: no grant expires during a run
_SINGLES = 6  # requests of one item that are sent before the first result is read
_REFUSED_EVERY = 11  # every such item is outside of the tenant's prefixes
_SMALL, _LARGE = 20, 1_250  # items; the larger batch has three chunks


@dataclass
class ClientProducer:
    """A producer with a Client. call makes one call, with the number of the call."""

    name: str
    urls: tuple[str, str]
    key: PrivateKey
    call: "Callable[[ClientProducer, Client, Record, int], None]"

    def run(self, record: Record, is_stopping: Callable[[], bool]) -> None:
        """Make calls until is_stopping() returns true."""
        key = dump_private_key(self.key)
        with closing(Client(*self.urls, key=key, requested_by=self.name)) as client:
            for number in count():
                if is_stopping():
                    return
                began = time.monotonic()
                self.call(self, client, record, number)
                record.complete_call(self.name, began)

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
    keys, batch_id = producer.keys(number, _SMALL), new_id()
    record.ask(batch_id, keys)
    items = [Item(key=key, size=100 + size) for size, key in enumerate(keys)]
    handle = client.put_many(
        "demo", items, batch_id=batch_id, max_size=1_000, expires_in=_EXPIRES_IN
    )
    _tell_all(handle, record, keys)


def request_large_batch(
    producer: ClientProducer, client: Client, record: Record, number: int
) -> None:
    """Request a batch of several chunks: downloads."""
    keys, batch_id = producer.keys(number, _LARGE), new_id()
    record.ask(batch_id, keys)
    handle = client.download_many("demo", keys, batch_id=batch_id, expires_in=_EXPIRES_IN)
    _tell_all(handle, record, keys)


def _tell_all(handle: BatchHandle, record: Record, keys: Sequence[str]) -> None:
    for number, result in enumerate(handle.results(ANSWER_SECONDS)):
        record.tell((handle.id, number), result, keys[number])


@dataclass
class AsyncProducer:
    """A producer whose AsyncClient requests batches of these sizes at the same time."""

    name: str
    urls: tuple[str, str]
    key: PrivateKey
    sizes: tuple[int, ...]

    def run(self, record: Record, is_stopping: Callable[[], bool]) -> None:
        """Make calls until is_stopping() returns true."""
        asyncio.run(self._run(record, is_stopping))

    async def _run(self, record: Record, is_stopping: Callable[[], bool]) -> None:
        client = AsyncClient(
            *self.urls, key=dump_private_key(self.key), requested_by=self.name, exit_timeout=None
        )
        try:
            for number in count():
                if is_stopping():
                    return
                began = time.monotonic()
                calls = [
                    self._request(client, record, f"{number}-{index}", size)
                    for index, size in enumerate(self.sizes)
                ]
                await asyncio.gather(*calls)
                record.complete_call(self.name, began)
        finally:
            await client.close()

    async def _request(self, client: AsyncClient, record: Record, name: str, size: int) -> None:
        keys = [f"{self.key.tenant}/{self.name}/{name}/{item}" for item in range(size)]
        batch_id = new_id()
        record.ask(batch_id, keys)
        handle = client.download_many("demo", keys, batch_id=batch_id, expires_in=_EXPIRES_IN)
        number = 0
        async for result in handle.results(ANSWER_SECONDS):
            record.tell((batch_id, number), result, keys[number])
            number += 1


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
