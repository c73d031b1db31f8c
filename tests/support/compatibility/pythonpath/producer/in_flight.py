"""Batches that a producer has in flight while the service changes."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from threading import Thread
from typing import Any

from pydantic_core import to_jsonable_python

from valetkey import AsyncClient, Client
from valetkey.client import new_id
from valetkey.handles import request_reply
from valetkey.wire.pending import PendingMessage
from valetkey.wire.requests import GrantRequest

from .operations import settle

TIMEOUT = 60.0  # seconds


@dataclass
class _OpenBatch:
    client: Any
    handle: Any
    results: AsyncIterator[Any]
    gate: asyncio.Event


class Batches:
    """Batches by name. An AsyncClient keeps each one going in a thread of its own."""

    def __init__(self) -> None:
        self._batches: dict[str, _OpenBatch] = {}
        self._clients: dict[str, Client] = {}
        self._loop = asyncio.new_event_loop()
        Thread(target=self._loop.run_forever, daemon=True).start()

    def open(self, name: str, client: dict[str, Any], request: dict[str, Any]) -> list[Any]:
        """Request a batch, and return the results of its first chunk.

        Its other chunks are sent once release() is called.
        """
        results: list[Any] = self._run(self._open(name, client, request))
        return results

    def release(self) -> None:
        """Let all batches send the rest of their chunks."""
        for batch in self._batches.values():
            self._loop.call_soon_threadsafe(batch.gate.set)

    def finish(self, name: str) -> Any:
        """Return the results of the other chunks of a batch."""
        return self._run(settle(self._finish(self._batches[name])))

    def request(self, client: dict[str, Any], request: dict[str, Any]) -> Any:
        """Request a batch, and return its results."""

        async def request_all() -> Any:
            handle = self._client(client)._request_batch(GrantRequest(**request))
            return list(handle.results(TIMEOUT))

        return asyncio.run(settle(request_all()))

    def usage(self, client: dict[str, Any]) -> Any:
        """Return the state of the tenant's quotas."""
        return to_jsonable_python(self._client(client).usage(TIMEOUT))

    def ask(self, client: dict[str, Any], body: dict[str, Any], timeout: float) -> Any:
        """Send a message as it is, without parsing it, and return the reply."""

        async def send() -> Any:
            message = PendingMessage(new_id(), body)
            return request_reply(self._client(client)._dispatcher, message, timeout)

        return asyncio.run(settle(send()))

    def _client(self, options: dict[str, Any]) -> Any:
        """Return a blocking client with these options, which stays open."""
        identity = json.dumps(options, sort_keys=True)
        if identity not in self._clients:
            self._clients[identity] = Client(**options)
        return self._clients[identity]

    def _run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    async def _open(self, name: str, options: dict[str, Any], request: dict[str, Any]) -> list[Any]:
        client, gate = AsyncClient(**options), asyncio.Event()
        items, size = request["items"], request["chunk_size"]

        async def read_items() -> AsyncIterator[Any]:
            for item in items[:size]:
                yield item
            await gate.wait()
            for item in items[size:]:
                yield item

        handle = client._request_batch(
            GrantRequest(**request | {"items": read_items(), "total": len(items)})
        )
        results = handle.results(TIMEOUT)
        self._batches[name] = _OpenBatch(client, handle, results, gate)
        return [to_jsonable_python(await anext(results)) for _ in range(min(size, len(items)))]

    @staticmethod
    async def _finish(batch: _OpenBatch) -> Any:
        return [result async for result in batch.results]
