"""The operations of the compatibility matrix, with both clients."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from valetkey import Refused
from valetkey.client import new_id

from .callers import AsyncCaller, BlockingCaller, Caller, settle

BUCKET = "demo"
SIZE = 20  # bytes of each object


@dataclass(frozen=True)
class Callers:
    """A client of a tenant without tight limits, and one of a tenant whose quota is one grant."""

    main: Caller
    limited: Caller
    prefix: str
    limited_prefix: str


def run_operations(
    style: str,
    main: dict[str, Any],
    limited: dict[str, Any],
    prefixes: list[str],
    timeout: float = 60.0,
) -> dict[str, Any]:
    """Perform every operation, and return the results by operation."""
    return asyncio.run(_run_all(style, [main, limited], prefixes, timeout))


async def _run_all(
    style: str, clients: list[dict[str, Any]], prefixes: list[str], timeout: float
) -> dict[str, Any]:
    make: type[Caller] = AsyncCaller if style == "async" else BlockingCaller
    main, limited = (make(client, timeout) for client in clients)
    callers = Callers(main, limited, *prefixes)
    try:
        await settle(_use_up_quota(callers))
        calls = [settle(operation(callers)) for operation in OPERATIONS.values()]
        return dict(zip(OPERATIONS, await asyncio.gather(*calls), strict=True))
    finally:
        await callers.main.close()
        await callers.limited.close()


async def _use_up_quota(callers: Callers) -> None:
    for _ in range(2):
        try:
            await _request("download", callers.limited, f"{callers.limited_prefix}/first")
        except Refused:
            return


async def _request(kind: str, caller: Caller, key: str, **options: Any) -> Any:
    terms: dict[str, dict[str, Any]] = {
        "download": {"filename": "statement.pdf"},
        "upload": {"max_size": 1_000, "content_type": "text/plain"},
        "put": {"size": SIZE, "content_type": "text/plain", "metadata": {"a": "b"}},
        "multipart": {"size": SIZE},
    }
    method = getattr(caller.client, kind)
    return await caller.grant(method(BUCKET, key, **terms[kind], **options))


async def _granted(kind: str, callers: Callers) -> Any:
    return await _request(kind, callers.main, f"{callers.prefix}/{kind}", expires_in=900)


async def _parts_granted(callers: Callers) -> Any:
    caller = callers.main
    upload = await _request("multipart", caller, f"{callers.prefix}/parts")
    return {"upload": upload, "parts": await caller.results(caller.client.parts(BUCKET, upload))}


async def _refused_by_policy(kind: str, callers: Callers) -> Any:
    return await _request(kind, callers.main, f"elsewhere/{kind}")


async def _parts_refused(callers: Callers) -> Any:
    caller = callers.main
    upload = await _request("multipart", caller, f"{callers.prefix}/refused-parts")
    unknown = replace(upload, id=f"{new_id()}.0")
    return await caller.results(caller.client.parts(BUCKET, unknown))


async def _refused_by_quota(kind: str, callers: Callers) -> Any:
    return await _request(kind, callers.limited, f"{callers.limited_prefix}/{kind}")


async def _usage(callers: Callers) -> Any:
    return await callers.main.reply(callers.main.client.usage(timeout=callers.main.timeout))


async def _cancel(callers: Callers) -> Any:
    caller, batch_id = callers.main, new_id()
    keys = [f"{callers.prefix}/{number}" for number in range(2)]
    granted = caller.client.download_many(BUCKET, keys)
    await caller.results(granted)
    after = await caller.reply(caller.client.cancel(granted, timeout=caller.timeout))
    before = await caller.reply(caller.client.cancel(batch_id, "never sent", caller.timeout))
    rest = await caller.results(caller.client.download_many(BUCKET, keys, batch_id=batch_id))
    return {"after": after, "before": before, "rest": rest}


async def _reopen(callers: Callers) -> Any:
    caller = callers.main
    keys = [*(f"{callers.prefix}/{number}" for number in range(4)), "elsewhere"]
    batch = caller.client.download_many(BUCKET, keys, chunk_size=2)
    first = await caller.results(batch)
    again = await caller.reply(caller.client.batch(batch.id, caller.timeout))
    counts = [again.total, again.issued, again.refused, again.remaining]
    results = await caller.results(again)
    return {"first": first, "again": results, "counts": counts, "quotas": batch.quotas}


async def _explain(callers: Callers) -> Any:
    explained = callers.main.client.explain(callers.main.timeout)
    granted = await callers.main.reply(explained.download(BUCKET, f"{callers.prefix}/a"))
    refused = await callers.main.reply(
        explained.put_many(BUCKET, [{"key": "elsewhere/a", "size": 1}], max_size=1)
    )
    return {"granted": granted, "refused": refused}


async def _manifest(callers: Callers) -> Any:
    keys = [*(f"{callers.prefix}/{number}" for number in range(4)), "elsewhere"]
    batch = callers.main.client.download_many(
        BUCKET, keys, chunk_size=2, manifest=f"{callers.prefix}/manifest.jsonl.gz"
    )
    manifest = batch.manifest(callers.main.timeout)
    value = await manifest if isinstance(manifest, Awaitable) else manifest
    return {"batch": batch.id, **value._asdict()}


async def _webhook(callers: Callers) -> Any:
    return await _request("download", callers.main, f"{callers.prefix}/hook", callback="hook")


KINDS = ("download", "upload", "put", "multipart")

OPERATIONS: dict[str, Callable[[Callers], Any]] = {
    **{f"{kind}: granted": partial(_granted, kind) for kind in KINDS},
    "parts: granted": _parts_granted,
    **{f"{kind}: refused by policy": partial(_refused_by_policy, kind) for kind in KINDS},
    "parts: refused by policy": _parts_refused,
    **{f"{kind}: refused by quota": partial(_refused_by_quota, kind) for kind in KINDS},
    "usage": _usage,
    "cancel": _cancel,
    "reopened batch": _reopen,
    "explain": _explain,
    "manifest": _manifest,
    "webhook": _webhook,
}
