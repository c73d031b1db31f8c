"""The messages that workers have discarded, as counted in Redis."""

import re
from typing import Any

from worker.broker.result_store import DISCARD_COUNTER, IGNORED_TRACES

_PART = re.compile(rb"[A-Za-z0-9_-]{1,40}")


_COUNT = re.compile(rb"[0-9]{1,19}")


def read_discard_counts(client: Any) -> dict[str, int]:
    """Return the number of discarded messages, by their invalid part.

    Skips a counter that no worker can have written: others can write there, too.
    """
    counts = client.hgetall(DISCARD_COUNTER)
    return {
        part.decode(): int(count)
        for part, count in counts.items()
        if _PART.fullmatch(part) and _COUNT.fullmatch(count)
    }


def read_ignored_traces(client: Any) -> int:
    """Return the number of messages with an invalid `traceparent` header."""
    count = client.hget(DISCARD_COUNTER, IGNORED_TRACES) or b""
    return int(count) if _COUNT.fullmatch(count) else 0
