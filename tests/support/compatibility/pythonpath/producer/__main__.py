"""A producer of one release: reads calls as JSON lines from stdin, and writes their results."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import to_json

from .in_flight import Batches
from .operations import run_operations


def main() -> None:
    """Run each call until stdin ends."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)  # only replies go to the parent
        batches = Batches()
        calls: Mapping[str, Callable[..., Any]] = {
            "operations": run_operations,
            "open": batches.open,
            "release": batches.release,
            "finish": batches.finish,
            "request": batches.request,
            "usage": batches.usage,
            "ask": batches.ask,
        }
        for line in sys.stdin:
            name, arguments = json.loads(line)
            try:
                reply = {"result": calls[name](**arguments)}
            except Exception:  # noqa: BLE001 - the parent raises it
                reply = {"error": traceback.format_exc()}
            replies.write(to_json(reply).decode() + "\n")
            replies.flush()


main()
