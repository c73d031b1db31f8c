"""Keys of the broker under which messages for issuing workers wait, and their lengths."""

import redis

from valetkey.wire.messages import BULK_QUEUE, INTERACTIVE_QUEUE

WAITING = "valetkey.waiting"
"""The set of the lanes in which messages wait. Each lane is a list; see lane_key."""


LEASE = "valetkey.waiting.lease"
"""The lease of the process that moves messages. It expires if no process does."""


def lane_key(lane: str) -> str:
    """Return the key of a lane's list."""
    return f"{WAITING}:{lane}"


def waiting_lanes(client: redis.Redis) -> list[str]:
    """Return the names of the lanes in which messages wait, sorted."""
    names = client.smembers(WAITING)
    return sorted(name.decode() for name in names if isinstance(name, bytes) and name.isascii())


def queue_lengths(client: redis.Redis) -> dict[str, int]:
    """Return the number of messages in each queue of issuing workers and in each lane, by key."""
    lanes = [lane_key(lane) for lane in waiting_lanes(client)]
    keys = [INTERACTIVE_QUEUE, BULK_QUEUE, *lanes]
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.llen(key)
    return dict(zip(keys, pipeline.execute(), strict=True))
