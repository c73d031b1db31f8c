"""The operations of a client, each once."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pydantic_core import to_jsonable_python

from valetkey import AsyncClient, Refused, ValetkeyError
from valetkey.client import new_id

BUCKET = "demo"
SIZE = 20  # bytes of each object


async def settle(call: Coroutine[Any, Any, Any]) -> Any:
    """Return what a call returns as JSON values, or its refusal or error."""
    try:
        return to_jsonable_python(await call)
    except Refused as error:
        return to_jsonable_python(error.refusal)
    except ValetkeyError as error:
        return {"error": type(error).__name__, "text": str(error)}


@dataclass(frozen=True)
class Caller:
    """A client, the prefix of its objects, and the seconds that it waits."""

    client: Any
    prefix: str
    timeout: float

    async def request(self, kind: str, key: str, **options: Any) -> Any:
        """Request a grant, and return it."""
        terms: dict[str, dict[str, Any]] = {
            "download": {"filename": "statement.pdf"},
            "upload": {"max_size": 1_000, "content_type": "text/plain"},
            "put": {"size": SIZE, "content_type": "text/plain", "metadata": {"a": "b"}},
            "multipart": {"size": SIZE},
        }
        handle = getattr(self.client, kind)(BUCKET, key, **terms[kind], **options)
        return await handle.result(self.timeout)

    async def results(self, batch: Any) -> list[Any]:
        """Return all results of a batch."""
        return [result async for result in batch.results(self.timeout)]


def run_operations(client: dict[str, Any], prefix: str, timeout: float) -> dict[str, Any]:
    """Perform every operation, and return the results by operation."""
    return asyncio.run(_run_all(client, prefix, timeout))


async def _run_all(options: dict[str, Any], prefix: str, timeout: float) -> dict[str, Any]:
    async with AsyncClient(**options, requested_by="compatibility") as client:
        caller = Caller(client, prefix, timeout)
        calls = [settle(operation(caller)) for operation in OPERATIONS.values()]
        return dict(zip(OPERATIONS, await asyncio.gather(*calls), strict=True))


async def _granted(kind: str, caller: Caller) -> Any:
    return await caller.request(kind, f"{caller.prefix}/{kind}", expires_in=900)


async def _parts_granted(caller: Caller) -> Any:
    upload = await caller.request("multipart", f"{caller.prefix}/parts")
    return {"upload": upload, "parts": await caller.results(caller.client.parts(BUCKET, upload))}


async def _refused(kind: str, caller: Caller) -> Any:
    return await caller.request(kind, f"elsewhere/{kind}")


async def _parts_refused(caller: Caller) -> Any:
    upload = await caller.request("multipart", f"{caller.prefix}/refused-parts")
    unknown = replace(upload, id=f"{new_id()}.0")
    return await caller.results(caller.client.parts(BUCKET, unknown))


async def _usage(caller: Caller) -> Any:
    return await caller.client.usage(timeout=caller.timeout)


async def _service(caller: Caller) -> Any:
    return await caller.client.service(timeout=caller.timeout)


async def _cancel(caller: Caller) -> Any:
    granted = caller.client.download_many(BUCKET, [f"{caller.prefix}/{n}" for n in range(2)])
    await caller.results(granted)
    return await caller.client.cancel(granted, timeout=caller.timeout)


async def _reopen(caller: Caller) -> Any:
    keys = [*(f"{caller.prefix}/{number}" for number in range(4)), "elsewhere"]
    batch = caller.client.download_many(BUCKET, keys, chunk_size=2)
    first = await caller.results(batch)
    again = await caller.client.batch(batch.id, caller.timeout)
    return {"first": first, "again": await caller.results(again)}


async def _explain(caller: Caller) -> Any:
    explained = caller.client.explain(caller.timeout)
    granted = await explained.download(BUCKET, f"{caller.prefix}/a")
    refused = await explained.put_many(BUCKET, [{"key": "elsewhere/a", "size": 1}], max_size=1)
    return {"granted": granted, "refused": refused}


async def _manifest(caller: Caller) -> Any:
    keys = [*(f"{caller.prefix}/{number}" for number in range(4)), "elsewhere"]
    batch = caller.client.download_many(
        BUCKET, keys, chunk_size=2, manifest=f"{caller.prefix}/manifest.jsonl.gz"
    )
    return (await batch.manifest(caller.timeout))._asdict()


async def _webhook(caller: Caller) -> Any:
    return await caller.request("download", f"{caller.prefix}/hook", callback="hook")


KINDS = ("download", "upload", "put", "multipart")

OPERATIONS: dict[str, Callable[[Caller], Coroutine[Any, Any, Any]]] = {
    **{f"{kind}: granted": partial(_granted, kind) for kind in KINDS},
    "parts: granted": _parts_granted,
    **{f"{kind}: refused": partial(_refused, kind) for kind in KINDS},
    "parts: refused": _parts_refused,
    "usage": _usage,
    "service": _service,
    "cancel": _cancel,
    "reopened batch": _reopen,
    "explain": _explain,
    "manifest": _manifest,
    "webhook": _webhook,
}
