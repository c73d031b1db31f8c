"""New ids of batches and tasks."""

import secrets
import time

from valetkey.wire.chunking import uuid7


def new_id() -> str:
    """Return a new UUIDv7: a batch id, or the task id of a request that is not a batch."""
    return uuid7(time.time_ns() // 10**6, secrets.token_bytes(10))
