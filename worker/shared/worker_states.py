"""What workers say of themselves, and how long their queues are."""

from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import redis
from pydantic import TypeAdapter, ValidationError

from valetkey.wire import BULK_QUEUE, INTERACTIVE_QUEUE
from valetkey.wire.waiting import lane_key
from worker.broker.queues import HEARTBEAT_PREFIX, Heartbeat, waiting_lanes


def queue_lengths(client: redis.Redis) -> dict[str, int]:
    """Return the number of messages in each queue of issuing workers and in each lane, by key."""
    lanes = [lane_key(lane) for lane in waiting_lanes(client)]
    keys = [INTERACTIVE_QUEUE, BULK_QUEUE, *lanes]
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.llen(key)
    return dict(zip(keys, pipeline.execute(), strict=True))


_HEARTBEAT = TypeAdapter(Heartbeat)


def read_heartbeats(client: Any) -> list[Heartbeat]:
    """Return the heartbeats of the workers that are alive, ordered by their names."""
    keys = sorted(client.scan_iter(match=f"{HEARTBEAT_PREFIX}*", count=1_000))
    found = []
    for text in client.mget(keys) if keys else ():
        with suppress(ValidationError):  # others can write there, too
            found.append(_HEARTBEAT.validate_json(text or b""))
    return found


def workers_by_queue(heartbeats: Iterable[Heartbeat]) -> dict[str, list[str]]:
    """Return the names of the workers by the queue that they consume."""
    consumers: defaultdict[str, list[str]] = defaultdict(list)
    for heartbeat in heartbeats:
        for queue in heartbeat.queues:
            consumers[queue].append(heartbeat.worker)
    return dict(consumers)


def worker_problems(heartbeats: Iterable[Heartbeat]) -> list[tuple[str, str, str]]:
    """Return what is wrong with workers: for each problem the worker, its code and a text."""
    return [
        (heartbeat.worker, code, text)
        for heartbeat in heartbeats
        for code, text in heartbeat.problems.items()
    ]
