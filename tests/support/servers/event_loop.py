"""Runs tests in an event loop, and checks that they leave nothing behind in it."""

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, ParamSpec

from valetkey import AsyncClient

P = ParamSpec("P")


def in_event_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in its own loop, and fail it if a task or an unhandled error remains there."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(_run(test(*args, **kwargs)))

    return run


async def _run(test: Coroutine[Any, Any, None]) -> None:
    unhandled: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    await test
    gc.collect(1)  # a task or future whose error was not retrieved reports it when it is deleted
    for _ in range(5):  # tasks close generators that were not read to their end
        await asyncio.sleep(0)
    remaining = asyncio.all_tasks() - {asyncio.current_task()}
    assert remaining == set()
    assert unhandled == []


def collect_leaks() -> list[str]:
    """Delete objects that nothing refers to; return those that should have been closed before."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        gc.collect()
    return [str(warning.message) for warning in caught]


@asynccontextmanager
async def async_client(
    broker: str, result_url: str | None = None, **options: Any
) -> AsyncIterator[Any]:
    """A client of the tenant acme that is closed without waiting for results."""
    client = AsyncClient(broker, result_url, "acme", "test", **options)
    try:
        yield client
    finally:
        await client.close()


async def wait_until_async(condition: Callable[[], object], seconds: float = 10) -> None:
    """Wait until the condition is true; fail after some seconds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - most conditions have no event
            await asyncio.sleep(0.01)
