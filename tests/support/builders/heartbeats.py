"""Heartbeats of workers that a test does not start."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from worker.broker.queues import HEARTBEAT_PREFIX, Heartbeat


def write_heartbeat(client: Any, role: str, queues: Sequence[str]) -> None:
    """Write what a worker with process id 1 writes."""
    now = datetime.now(UTC)
    heartbeat = Heartbeat(f"{role}@host", queues, 1, 1, now, now, {}, role, "host", "0.1.0")
    client.set(f"{HEARTBEAT_PREFIX}{role}@host:1", json.dumps(heartbeat._asdict(), default=str))
