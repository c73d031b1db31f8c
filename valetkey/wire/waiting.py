"""The lists of the broker in which a message waits, and how its frame is spelled there. Pure."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from valetkey.wire import BULK_QUEUE, INTERACTIVE_QUEUE

WAITING_LANES = "valetkey.waiting"
"""The set of the lanes in which messages wait. Each lane is a list; see lane_key."""

SERVED_MARK = " "
"""The end of a frame that returned from a lane to a queue. JSON ignores the space."""

PROBE_TENANT = "!probe"
"""The sender of probes, in a lane of its own. No tenant can have this name."""


def lane_name(tenant: str, *, is_bulk: bool) -> str:
    """Return the lane of a claimed tenant. Small requests do not wait behind its own bulk."""
    return f"{tenant}.bulk" if is_bulk else tenant


def lane_key(lane: str) -> str:
    """Return the key of a lane's list."""
    return f"{WAITING_LANES}:{lane}"


def frame_places(tenant: str, queue: str, frame: str) -> list[tuple[str, str]]:
    """Return the lists in which a frame of a tenant may be, each with the frame's spelling there.

    Without the lanes that tenants share if very many of them wait.
    """
    lane = lane_key(lane_name(tenant, is_bulk=queue == BULK_QUEUE))
    served = [(each, frame + SERVED_MARK) for each in (BULK_QUEUE, INTERACTIVE_QUEUE)]
    return [(queue, frame), (lane, frame), *served]


LANE_STATES = "valetkey.lanes"
"""The hash of what waiting tenants may still send: JSON by tenant, and SERVICE_FIELD.

It expires soon after the process that serves lanes ends: then write into no lane.
"""

SERVICE_FIELD = "!"
"""The field of LANE_STATES that is always there, for tenants that have none of their own."""

QUEUE_LIMIT = 64
"""The number of messages in a queue from which a client writes into its own lane instead."""

DEFAULT_MAX_MESSAGES = 10_000
"""The greatest length of a lane, unless the service or its tenant has another one."""

MIN_MAX_MESSAGES = 64
"""The smallest such limit: clients send up to 32 messages of a batch before its first reply."""

MAX_BUSY_SECONDS = 60
_MAX_STATE_LENGTH = 1_000


class LaneState(NamedTuple):
    """The greatest length of a lane, and the seconds for which it takes nothing, if it is busy."""

    max_messages: int = DEFAULT_MAX_MESSAGES
    busy: int | None = None


def dump_lane_state(max_messages: int, busy: Mapping[str, int]) -> str:
    """Return the value of a tenant in LANE_STATES. busy has the seconds of its busy lanes."""
    state = {"max_messages": max_messages}
    return json.dumps(state | ({"lanes": dict(busy)} if busy else {}))


def read_lane_state(values: tuple[Any, Any], lane: str) -> LaneState | None:
    """Return the state of a lane from the fields of its tenant and of the service.

    None if no process serves lanes. Others can write there, so what no service wrote is ignored.
    """
    own, service = values
    if service is None:
        return None
    limits = (_parse_state(value) for value in (own, service))
    max_messages = next(filter(None, (_count(each.get("max_messages")) for each in limits)), None)
    lanes = _parse_state(own).get("lanes")
    busy = _count(lanes.get(lane)) if isinstance(lanes, dict) else None
    return LaneState(
        max(max_messages or DEFAULT_MAX_MESSAGES, MIN_MAX_MESSAGES),
        None if busy is None else min(busy, MAX_BUSY_SECONDS),
    )


def _parse_state(value: Any) -> dict[str, Any]:
    if not isinstance(value, bytes) or len(value) > _MAX_STATE_LENGTH:
        return {}
    try:
        state = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    return state if isinstance(state, dict) else {}


def _count(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None
