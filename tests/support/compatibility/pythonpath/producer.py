"""A producer of one release: reads calls as JSON lines from stdin, and writes their results."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

from pydantic_core import to_json, to_jsonable_python

from valetkey import Client, Refused
from valetkey.blocking import run
from valetkey.session import new_id
from valetkey.wire.pending import PendingMessage
from valetkey.wire.requests import GrantRequest, header_and_messages

TIMEOUT = 60.0  # seconds
BUCKET = "demo"
_TERMS: dict[str, dict[str, Any]] = {
    "download": {"filename": "statement.pdf"},
    "upload": {"max_size": 1_000, "content_type": "text/plain"},
    "put": {"size": 20, "content_type": "text/plain", "metadata": {"a": "b"}},
    "multipart": {"size": 20},
}


def settled(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return what a call returns as JSON values, or its refusal."""
    try:
        return to_jsonable_python(call(*args, **kwargs))
    except Refused as error:
        return to_jsonable_python(error.refusal)


def run_operations(client: Any, prefix: str) -> dict[str, Any]:
    """Perform every operation, and return the results by operation."""
    return {name: settled(operation, client, prefix) for name, operation in OPERATIONS.items()}


def _grant(kind: str, client: Any, key: str, **options: Any) -> Any:
    return getattr(client, kind)(BUCKET, key, **_TERMS[kind], **options).result(TIMEOUT)


def _granted(kind: str, client: Any, prefix: str) -> Any:
    return _grant(kind, client, f"{prefix}/{kind}", expires_in=900)


def _refused(kind: str, client: Any, _prefix: str) -> Any:
    return _grant(kind, client, f"elsewhere/{kind}")


def _parts(client: Any, prefix: str, **changes: Any) -> Any:
    upload = _grant("multipart", client, f"{prefix}/parts")
    return list(client.parts(BUCKET, replace(upload, **changes)).results(TIMEOUT))


def _batch(client: Any, prefix: str, **options: Any) -> Any:
    keys = [*(f"{prefix}/{number}" for number in range(4)), "elsewhere"]
    return client.download_many(BUCKET, keys, chunk_size=2, **options)


def _cancel(client: Any, prefix: str) -> Any:
    batch = _batch(client, prefix)
    list(batch.results(TIMEOUT))
    return client.cancel(batch, timeout=TIMEOUT)


def _reopen(client: Any, prefix: str) -> Any:
    batch = _batch(client, prefix)
    first = list(batch.results(TIMEOUT))
    return {"first": first, "again": list(client.batch(batch.id, TIMEOUT).results(TIMEOUT))}


def _explain(client: Any, prefix: str) -> Any:
    explained = client.explain(TIMEOUT)
    refused = explained.put_many(BUCKET, [{"key": "elsewhere/a", "size": 1}], max_size=1)
    return {"granted": explained.download(BUCKET, f"{prefix}/a"), "refused": refused}


def _manifest(client: Any, prefix: str) -> Any:
    batch = _batch(client, prefix, manifest=f"{prefix}/manifest.jsonl.gz")
    return batch.manifest(TIMEOUT)._asdict()


OPERATIONS: dict[str, Callable[[Any, str], Any]] = {
    **{f"{kind}: granted": partial(_granted, kind) for kind in _TERMS},
    "parts: granted": _parts,
    **{f"{kind}: refused": partial(_refused, kind) for kind in _TERMS},
    "parts: refused": lambda client, prefix: _parts(client, prefix, id=f"{new_id()}.0"),
    "usage": lambda client, _: client.usage(TIMEOUT),
    "service": lambda client, _: client.service(TIMEOUT),
    "cancel": _cancel,
    "reopened batch": _reopen,
    "explain": _explain,
    "manifest": _manifest,
    "webhook": lambda client, prefix: _grant("download", client, f"{prefix}/a", callback="hook"),
}


@cache
def get_client(options: str) -> Any:
    """Return a client with these options, which stays open."""
    return Client(**json.loads(options))


def request_first(client: Any, request: dict[str, Any]) -> Any:
    """Send the first chunk of a batch, and return its results."""
    _, messages = header_and_messages(GrantRequest(**request), client._config, new_id())
    reply: Any = run(client._session.send(object, next(messages), TIMEOUT))
    return reply.items


def request_all(client: Any, request: dict[str, Any]) -> Any:
    return list(client._request_batch(GrantRequest(**request)).results(TIMEOUT))


def ask(client: Any, body: dict[str, Any]) -> Any:
    """Send a message as it is, without parsing it, and return the reply."""
    return run(client._session.send(object, PendingMessage(new_id(), body), TIMEOUT))


CALLS: Mapping[str, Callable[..., Any]] = {
    "operations": run_operations,
    "open": request_first,
    "request": request_all,
    "usage": lambda client: client.usage(TIMEOUT),
    "ask": ask,
}


def main() -> None:
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)  # only replies go to the parent
        for line in sys.stdin:
            name, options, arguments = json.loads(line)
            try:
                result = settled(CALLS[name], get_client(json.dumps(options)), **arguments)
                reply = {"result": result}
            except Exception:  # noqa: BLE001 - the parent raises it
                reply = {"error": traceback.format_exc()}
            replies.write(to_json(reply).decode() + "\n")
            replies.flush()


main()
