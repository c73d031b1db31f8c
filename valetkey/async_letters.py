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

from valetkey import batches, requests
from valetkey.batches import Asked
from valetkey.letters import Letter
from valetkey.requests import Request, Who


class Feed(Iterator[Letter | None]):
    """Letters that are made one at a time, each once it is asked for; None until it is there.

    stir is called once it is. A batch that is given up may be asked for again, so only close()
    ends a reading that goes on: to cancel it ends the caller's iterable.
    """

    def __init__(self, letters: AsyncGenerator[Letter, None], stir: Callable[[], None]) -> None:
        self._letters = letters
        self._stir = stir
        self._reading: asyncio.Task[Letter] | None = None
        self._is_closed = False

    def __next__(self) -> Letter | None:
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

    async def _read(self) -> Letter:
        return await anext(self._letters)

    def _is_read(self, reading: asyncio.Task[Letter]) -> None:
        if not reading.cancelled():
            reading.exception()  # raised where the letter is taken, if it ever is
        self._stir()


async def chunks(
    head: Mapping[str, Any], items: AsyncIterable[Asked], first_chunk: int = 0
) -> AsyncGenerator[Letter, None]:
    """Cut a batch into messages as batches.chunks does; raises ValueError as that does."""
    rest, cut = aiter(items), batches.Cutter(head)
    for place in batches.places(head, first_chunk):
        asked = await _first(rest, place.items)
        is_more = place.is_last and bool(await _first(rest, 1))
        yield cut.chunk(place, asked, is_more=is_more)


async def explanation(request: Request, who: Who, batch: str) -> Letter:
    """Ask what would be decided on a request, as requests.explanation does."""
    head, items = request.header(who, batch)
    if not isinstance(items, AsyncIterable):
        return requests.explanation(request, who, batch)
    async with aclosing(chunks({**head, "ask": "explain"}, items)) as letters:
        async for first in letters:
            return first
    raise ValueError("no items are asked for")


async def _first(items: AsyncIterator[Asked], count: int) -> list[Asked]:
    found: list[Asked] = []
    while len(found) < count:
        try:
            found.append(await anext(items))
        except StopAsyncIteration:
            break
    return found
