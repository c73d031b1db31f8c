"""Tests that run in an event loop, and leave nothing behind in it."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, ParamSpec

from valetkey import AsyncClient

P = ParamSpec("P")


def in_event_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in a loop of its own, and fail it where a task or an error is left there."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(_run(test(*args, **kwargs)))

    return run


async def _run(test: Coroutine[Any, Any, None]) -> None:
    unheard: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    await test
    gc.collect(1)  # a task or future that nobody heard says so when it goes
    for _ in range(5):  # generators that were not read to their end are closed by tasks
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert left == set()
    assert unheard == []


@asynccontextmanager
async def async_client(
    broker: str, result_url: str | None = None, **given: Any
) -> AsyncIterator[Any]:
    """A client of the tenant acme that is closed without waiting for answers."""
    client = AsyncClient(broker, result_url, "acme", "test", **given)
    try:
        yield client
    finally:
        await client.close()


async def wait_until_async(done: Callable[[], object], seconds: float = 10) -> None:
    """Wait until done(), and fail after so many seconds."""
    async with asyncio.timeout(seconds):
        while not done():  # noqa: ASYNC110 - of much that is waited for there is no event
            await asyncio.sleep(0.01)
