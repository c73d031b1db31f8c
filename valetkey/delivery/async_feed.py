"""What is asked for where its items come asynchronously: letters as they can be made."""

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

from valetkey.wire import chunking, requests
from valetkey.wire.chunking import ItemInput
from valetkey.wire.pending import PendingMessage
from valetkey.wire.requests import GrantRequest, Requester


class MessageFeed(Iterator[PendingMessage | None]):
    """Letters that are made one at a time, each once it is asked for; None until it is there.

    stir is called once it is. A batch that is given up may be asked for again, so only close()
    ends a reading that goes on: to cancel it ends the caller's iterable.
    """

    def __init__(
        self, letters: AsyncGenerator[PendingMessage, None], stir: Callable[[], None]
    ) -> None:
        self._letters = letters
        self._stir = stir
        self._reading: asyncio.Task[PendingMessage] | None = None
        self._is_closed = False

    def __next__(self) -> PendingMessage | None:
        if self._is_closed:  # which whoever waits for its letters is told by who closes it
            return None
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._read())
            self._reading.add_done_callback(self._is_read)
        if not self._reading.done():
            return None
        reading, self._reading = self._reading, None
        if reading.cancelled():  # as an error of theirs, not as if whoever asks were cancelled
            raise RuntimeError("what the items wait for was cancelled")
        return reading.result()

    async def close(self) -> None:
        """Read no further."""
        self._is_closed = True
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        await self._letters.aclose()

    async def _read(self) -> PendingMessage:
        return await anext(self._letters)

    def _is_read(self, reading: asyncio.Task[PendingMessage]) -> None:
        if not reading.cancelled():
            reading.exception()  # raised where the letter is taken, if it ever is
        self._stir()


async def async_chunk_messages(
    head: Mapping[str, Any], items: AsyncIterable[ItemInput], first_chunk: int = 0
) -> AsyncGenerator[PendingMessage, None]:
    """Cut a batch into messages as batches.chunks does; raises ValueError as that does."""
    rest, cut = aiter(items), chunking.Chunker(head)
    for place in chunking.chunk_slices(head, first_chunk):
        asked = await _first(rest, place.items)
        is_more = place.is_last and bool(await _first(rest, 1))
        yield cut.chunk(place, asked, is_more=is_more)


async def async_explain_message(
    request: GrantRequest, who: Requester, batch: str
) -> PendingMessage:
    """Ask what would be decided on a request, as requests.explanation does."""
    head, items = request.header(who, batch)
    if not isinstance(items, AsyncIterable):
        return requests.explain_message(request, who, batch)
    async with aclosing(async_chunk_messages({**head, "ask": "explain"}, items)) as letters:
        async for first in letters:
            return first
    raise ValueError("no items are asked for")


async def _first(items: AsyncIterator[ItemInput], count: int) -> list[ItemInput]:
    found: list[ItemInput] = []
    while len(found) < count:
        try:
            found.append(await anext(items))
        except StopAsyncIteration:
            break
    return found
