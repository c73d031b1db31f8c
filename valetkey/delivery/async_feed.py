"""Builds the messages of a batch whose items come from an async iterable."""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterator,
    Mapping,
)
from contextlib import aclosing
from typing import Any

from valetkey.wire import requests
from valetkey.wire.chunking import ChunkMessageBuilder, ItemInput, chunk_slices
from valetkey.wire.pending import PendingMessage
from valetkey.wire.requests import GrantRequest, Requester


class MessageFeed(Iterator[PendingMessage | None]):
    """Iterates over an async generator without waiting: None if the next message is not ready.

    on_ready is called when a message is ready. Reading continues after the batch is given up,
    because it may be resumed. Only close() stops it, which ends the caller's iterable.
    """

    def __init__(
        self, messages: AsyncGenerator[PendingMessage, None], on_ready: Callable[[], None]
    ) -> None:
        self._messages = messages
        self._on_ready = on_ready
        self._read_task: asyncio.Task[PendingMessage] | None = None
        self._is_closed = False

    def __next__(self) -> PendingMessage | None:
        if self._is_closed:  # the client that closes the feed fails its request as well
            return None
        if self._read_task is None:
            self._read_task = asyncio.get_running_loop().create_task(self._read())
            self._read_task.add_done_callback(self._finish_read)
        if not self._read_task.done():
            return None
        task, self._read_task = self._read_task, None
        if task.cancelled():  # an error of the items: the reader itself is not cancelled
            raise RuntimeError("the task that the items wait for was cancelled")
        return task.result()

    async def close(self) -> None:
        """Stop reading, and close the generator."""
        self._is_closed = True
        if self._read_task is not None:
            self._read_task.cancel()
            await asyncio.wait([self._read_task])
        await self._messages.aclose()

    async def _read(self) -> PendingMessage:
        return await anext(self._messages)

    def _finish_read(self, task: asyncio.Task[PendingMessage]) -> None:
        if not task.cancelled():
            task.exception()  # marks it as retrieved; __next__ raises it if it is called again
        self._on_ready()


async def async_chunk_messages(
    header: Mapping[str, Any], items: AsyncIterable[ItemInput], first_chunk: int = 0
) -> AsyncGenerator[PendingMessage, None]:
    """Yield the messages of a batch; the async form of chunking.chunk_messages."""
    iterator, chunker = aiter(items), ChunkMessageBuilder(header)
    for chunk in chunk_slices(header, first_chunk):
        chunk_items = await _take(iterator, chunk.item_count)
        has_more = chunk.is_last and bool(await _take(iterator, 1))
        yield chunker.build_message(chunk, chunk_items, has_more=has_more)


async def build_explain_message(
    request: GrantRequest, requester: Requester, new_batch_id: str
) -> PendingMessage:
    """Return the message that explains a request; the async form of requests.explain_message."""
    header, items = request.header(requester, new_batch_id)
    if not isinstance(items, AsyncIterable):
        return requests.explain_message(request, requester, new_batch_id)
    async with aclosing(async_chunk_messages({**header, "ask": "explain"}, items)) as messages:
        async for message in messages:
            return message
    raise ValueError("there are no items to explain: pass at least one")


async def _take(items: AsyncIterator[ItemInput], count: int) -> list[ItemInput]:
    taken: list[ItemInput] = []
    while len(taken) < count:
        try:
            taken.append(await anext(items))
        except StopAsyncIteration:
            break
    return taken
