"""The blocking and the asyncio client behind one interface."""

from collections.abc import Awaitable, Coroutine
from typing import Any

from pydantic_core import to_jsonable_python

from valetkey import AsyncClient, Client, Refused, ValetkeyError


class BlockingCaller:
    """A Client. Its calls block, so its coroutines never wait."""

    def __init__(self, options: dict[str, Any], timeout: float) -> None:
        self.timeout = timeout  # seconds
        self.client: Any = Client(**options, requested_by="compatibility")

    async def grant(self, handle: Any) -> Any:
        """Return the result of a single request."""
        return handle.result(self.timeout)

    async def results(self, handle: Any) -> list[Any]:
        """Return all results of a batch."""
        return list(handle.results(self.timeout))

    async def reply(self, value: Any) -> Any:
        """Return what a method without a handle returns."""
        return value

    async def close(self) -> None:
        """Close the client."""
        self.client.close()


class AsyncCaller:
    """An AsyncClient."""

    def __init__(self, options: dict[str, Any], timeout: float) -> None:
        self.timeout = timeout  # seconds
        self.client: Any = AsyncClient(**options, requested_by="compatibility")

    async def grant(self, handle: Any) -> Any:
        """Return the result of a single request."""
        return await handle.result(self.timeout)

    async def results(self, handle: Any) -> list[Any]:
        """Return all results of a batch."""
        return [result async for result in handle.results(self.timeout)]

    async def reply(self, value: Awaitable[Any]) -> Any:
        """Return what a method without a handle returns."""
        return await value

    async def close(self) -> None:
        """Close the client."""
        await self.client.close()


Caller = BlockingCaller | AsyncCaller


async def settle(call: Coroutine[Any, Any, Any]) -> Any:
    """Return what a call returns as JSON values, or its refusal or error."""
    try:
        return to_jsonable_python(await call)
    except Refused as error:
        return to_jsonable_python(error.refusal)
    except ValetkeyError as error:
        return {"error": type(error).__name__, "text": str(error)}
