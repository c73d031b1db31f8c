"""The queues of the service: their tasks and roles, their lengths, and heartbeats of their workers.

Each worker says every few seconds, in the result store, that its loop turns. Celery's remote
control could report the same, but anyone at the broker could use it to stop workers.
"""

import json
import re
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

import redis
from pydantic import AwareDatetime, Field

from valetkey.delivery.causes import describe_cause
from valetkey.wire import BULK_QUEUE, INTERACTIVE_QUEUE, RELEASE
from valetkey.wire.waiting import WAITING_LANES
from worker import clock
from worker.base.progress import report_progress
from worker.core import UPKEEP_QUEUE

QUEUES_BY_ROLE = {
    "issue": (INTERACTIVE_QUEUE, BULK_QUEUE),
    "interactive": (INTERACTIVE_QUEUE,),
    "bulk": (BULK_QUEUE,),
    "upkeep": (UPKEEP_QUEUE,),
}

RESULT_INDEX = "valetkey.results."
"""Begins the key of a batch's set of task ids: those of results that are not named after it."""

SHARING_LEASE = "valetkey.waiting.lease"
"""The lease of the process that moves messages. It expires if no process does."""


def waiting_lanes(client: redis.Redis) -> list[str]:
    """Return the names of the lanes in which messages wait, sorted."""
    names = client.smembers(WAITING_LANES)
    return sorted(name.decode() for name in names if isinstance(name, bytes) and name.isascii())


DEPTHS_SCRIPT = """
local tail, max_bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local found, bytes = {}, 0
for i, key in ipairs(KEYS) do
  local length = redis.pcall('LLEN', key)
  local frame = ''
  if type(length) ~= 'number' then
    length = 0
  elseif length > 0 and bytes < max_bytes then
    frame = redis.call('LINDEX', key, -1)
    bytes = bytes + #frame
  end
  found[2 * i - 1], found[2 * i] = length, string.sub(frame, -tail)
end
return found
"""
"""KEYS: lists. ARGV: the bytes of a tail, and the bytes of frames after which no more are read.

Returns for each list its length, 0 if it is no list, and the tail of its oldest frame.
"""

_TAIL_BYTES = 4_096  # kombu writes the headers after the body
_MAX_DEPTH_BYTES = 32 * 1024**2
_SENT_AT = re.compile(rb'"sent_at": ?([0-9]{1,16})(?=[,}\s])')


def lane_depths(client: Any, keys: Sequence[str]) -> dict[str, tuple[int, float | None]]:
    """Return the length of each list of messages, and the age in seconds of its oldest message.

    The age is None if the message does not say when it was sent. Raises RedisError.
    """
    if not keys:
        return {}
    found = client.eval(DEPTHS_SCRIPT, len(keys), *keys, _TAIL_BYTES, _MAX_DEPTH_BYTES)
    sent = (_SENT_AT.findall(tail) for tail in found[1::2])
    now = clock.now()
    ages = (clock.seconds_since(int(times[-1]), now) if times else None for times in sent)
    return dict(zip(keys, zip(found[::2], ages, strict=True), strict=True))


HEARTBEAT_PREFIX = "valetkey.worker:"
HEARTBEAT_INTERVAL = 5  # seconds
HEARTBEAT_LIFETIME = 4 * HEARTBEAT_INTERVAL  # after it, a silent worker is no longer listed


# Others can write heartbeats, too: these times can be compared, and printed in any time zone.
_Time = Annotated[
    AwareDatetime, Field(ge=datetime(2000, 1, 1, tzinfo=UTC), lt=datetime(3000, 1, 1, tzinfo=UTC))
]


class Heartbeat(NamedTuple):
    """The last sign of life of a worker.

    supervisor is the process id of the `worker run` that started it; queues are those that it
    consumes, none while a problem prevents it. problems are texts by code. The last three are empty
    in those of releases before them.
    """

    worker: str
    queues: Sequence[str]
    supervisor: int
    pid: int
    started_at: _Time
    seen_at: _Time
    problems: Mapping[str, str] = {}
    role: str = ""
    host: str = ""
    release: str = ""


def own_identity(role: str) -> tuple[str, str, str]:
    """Return the last fields of the heartbeats of this process."""
    return role, socket.gethostname(), RELEASE


def write_heartbeat(client: Any, heartbeat: Heartbeat) -> None:
    """Write a heartbeat, unless the result store is unreachable: another is due in seconds.

    Reports to the supervisor as well. Call this from the loop that takes work.
    """
    key = f"{HEARTBEAT_PREFIX}{heartbeat.worker}:{heartbeat.pid}"
    text = json.dumps(heartbeat._asdict(), default=str)
    try:
        client.set(key, text, ex=HEARTBEAT_LIFETIME)
    except (redis.RedisError, OSError) as error:
        report_progress(f"the result store cannot be used: {describe_cause(error)}")
        return
    is_ready = heartbeat.queues or not heartbeat.problems
    report_progress(None if is_ready else "; ".join(heartbeat.problems.values()))
