"""A producer of one release: reads calls as JSON lines from stdin, and writes their results."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from pydantic_core import to_json

from valetkey import Client
from valetkey.client import new_id
from valetkey.handles import request_reply
from valetkey.wire.pending import PendingMessage
from valetkey.wire.requests import GrantRequest, header_and_messages

from .operations import TIMEOUT, run_operations, settled


@cache
def get_client(options: str) -> Any:
    """Return a client with these options, which stays open."""
    return Client(**json.loads(options))


def request_first(client: Any, request: dict[str, Any]) -> Any:
    """Send the first chunk of a batch, and return its results."""
    _, messages = header_and_messages(GrantRequest(**request), client._config, new_id())
    reply: Any = request_reply(client._dispatcher, next(messages), TIMEOUT)
    return reply.items


def request_all(client: Any, request: dict[str, Any]) -> Any:
    """Request a batch, and return its results."""
    return list(client._request_batch(GrantRequest(**request)).results(TIMEOUT))


def ask(client: Any, body: dict[str, Any]) -> Any:
    """Send a message as it is, without parsing it, and return the reply."""
    return request_reply(client._dispatcher, PendingMessage(new_id(), body), TIMEOUT)


CALLS: Mapping[str, Callable[..., Any]] = {
    "operations": run_operations,
    "open": request_first,
    "request": request_all,
    "usage": lambda client: client.usage(TIMEOUT),
    "ask": ask,
}


def main() -> None:
    """Run each call until stdin ends."""
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
