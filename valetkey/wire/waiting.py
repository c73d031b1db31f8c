"""The lists of the broker in which a message waits, and how its frame is spelled there. Pure."""

from valetkey.wire.messages import BULK_QUEUE, INTERACTIVE_QUEUE

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
