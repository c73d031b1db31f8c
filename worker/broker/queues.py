"""The queues of the service: their tasks and roles, their lengths, and heartbeats of their workers.

Each worker says every few seconds, in the result store, that its loop turns. Celery's remote
control could tell as much, but anyone at the broker could use it to stop workers.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

import redis
from pydantic import TypeAdapter, ValidationError

from valetkey.wire.messages import BULK_QUEUE, INTERACTIVE_QUEUE, ISSUE_TASK
from valetkey.wire.waiting import WAITING_LANES, lane_key

UPKEEP_QUEUE = "valetkey.upkeep"
PROBE_TASK = "valetkey.probe"
PROBE_ID_PREFIX = f"{PROBE_TASK}."
"""Begins the task ids of probes, so that no result of one is stored under the id of a request."""

QUEUES_BY_TASK = {
    ISSUE_TASK: (INTERACTIVE_QUEUE, BULK_QUEUE),
    PROBE_TASK: (INTERACTIVE_QUEUE,),
    "valetkey.deliver": (UPKEEP_QUEUE,),
    "valetkey.manifests": (UPKEEP_QUEUE,),
    "valetkey.upkeep": (UPKEEP_QUEUE,),
}
QUEUES_BY_ROLE = {
    "issue": (INTERACTIVE_QUEUE, BULK_QUEUE),
    "interactive": (INTERACTIVE_QUEUE,),
    "bulk": (BULK_QUEUE,),
    "upkeep": (UPKEEP_QUEUE,),
}

EVENTS_ROLE = "events"
"""The role of workers that read queues of SQS, which bucket profiles name."""

EVENTS_PREFIX = "events:"
"""The beginning of the names of SQS queues among those that workers consume."""

RESULT_INDEX = "valetkey.results."
"""Begins the key of a batch's set of task ids: those of results that are not named after it."""

SHARING_LEASE = "valetkey.waiting.lease"
"""The lease of the process that moves messages. It expires if no process does."""


def waiting_lanes(client: redis.Redis) -> list[str]:
    """Return the names of the lanes in which messages wait, sorted."""
    names = client.smembers(WAITING_LANES)
    return sorted(name.decode() for name in names if isinstance(name, bytes) and name.isascii())


def queue_lengths(client: redis.Redis) -> dict[str, int]:
    """Return the number of messages in each queue of issuing workers and in each lane, by key."""
    lanes = [lane_key(lane) for lane in waiting_lanes(client)]
    keys = [INTERACTIVE_QUEUE, BULK_QUEUE, *lanes]
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.llen(key)
    return dict(zip(keys, pipeline.execute(), strict=True))


HEARTBEAT_PREFIX = "valetkey.worker:"
HEARTBEAT_INTERVAL = 5  # seconds
HEARTBEAT_LIFETIME = 4 * HEARTBEAT_INTERVAL  # after it, a silent worker is no longer listed


class Heartbeat(NamedTuple):
    """The last sign of life of a worker.

    supervisor is the process id of the `worker run` that started it; queues are those that it
    consumes, none while a problem prevents it. problems are texts by code.
    """

    worker: str
    queues: Sequence[str]
    supervisor: int
    pid: int
    started_at: datetime
    seen_at: datetime
    problems: Mapping[str, str] = {}


_HEARTBEAT = TypeAdapter(Heartbeat)


def write_heartbeat(client: Any, heartbeat: Heartbeat) -> None:
    """Write a heartbeat, unless the result store is away: the next one is due in a few seconds."""
    key = f"{HEARTBEAT_PREFIX}{heartbeat.worker}:{heartbeat.pid}"
    text = json.dumps(heartbeat._asdict(), default=str)
    try:
        client.set(key, text, ex=HEARTBEAT_LIFETIME)
    except (redis.RedisError, OSError):
        return


def read_heartbeats(client: Any) -> list[Heartbeat]:
    """Return the heartbeats of the workers that are alive, ordered by their names."""
    keys = sorted(client.scan_iter(match=f"{HEARTBEAT_PREFIX}*", count=1_000))
    found = []
    for text in client.mget(keys) if keys else ():
        with suppress(ValidationError):  # others can write there, too
            found.append(_HEARTBEAT.validate_json(text or b""))
    return found


def workers_by_queue(client: Any) -> dict[str, list[str]]:
    """Return the names of the workers whose heartbeat is fresh, by the queue that they consume."""
    consumers: defaultdict[str, list[str]] = defaultdict(list)
    for heartbeat in read_heartbeats(client):
        for queue in heartbeat.queues:
            consumers[queue].append(heartbeat.worker)
    return dict(consumers)


def worker_problems(client: Any) -> list[tuple[str, str, str]]:
    """Return what is wrong with live workers: for each problem the worker, its code and a text."""
    return [
        (heartbeat.worker, code, text)
        for heartbeat in read_heartbeats(client)
        for code, text in heartbeat.problems.items()
    ]
