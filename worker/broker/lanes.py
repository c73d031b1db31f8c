"""Pure decisions of the fair queue: a frame's claimed tenant, its lane, and the next turn.

A frame is a message as kombu stores it in Redis. The claim is not verified: it only decides where
the frame waits.
"""

import base64
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple
from zlib import crc32

from pydantic_core import from_json

from valetkey.wire.strict_json import decode_base64url, parse_json
from valetkey.wire.waiting import (
    DEFAULT_MAX_MESSAGES,
    MAX_BUSY_SECONDS,
    PROBE_TENANT,
    SERVICE_FIELD,
)

PREFIX_BYTES = 2_048
"""The length of the part of a frame that is read, so that a large frame costs no more."""

UNKNOWN_TENANT = "?"
"""The claim of all frames that name no tenant; no tenant can have this name."""

_TENANT_NAME = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,62}}|{PROBE_TENANT}")


def claimed_tenant(prefix: bytes, known: Collection[str] = ()) -> str:
    """Return the tenant that a frame claims to be from, or UNKNOWN. Never raises.

    known are the tenants whose claims count, all if there are none.
    prefix is the beginning of the frame. kombu writes the body first, and a signed body begins
    with the id of the key, an unsigned one with the tenant.
    """
    try:
        name = _read_claim(prefix.decode("utf-8", "ignore"))
    except (ValueError, RecursionError):
        return UNKNOWN_TENANT
    is_name = isinstance(name, str) and _TENANT_NAME.fullmatch(name)
    return name if is_name and (not known or name in known) else UNKNOWN_TENANT


def _read_claim(prefix: str) -> Any:
    match _parse_claim(prefix):
        case {"body": str(body)}:
            arguments = _decode_body(body)
        case _:
            return None
    match _parse_claim(arguments):
        case [[str(token), *_], *_]:
            return _read_key_id(token).partition("/")[0]
        case [[dict(), *_], *_]:
            # Without an incomplete string at its end, which could be the beginning of a name.
            return _parse_claim(arguments, "on")[0][0].get("tenant")
    return None


def _decode_body(body: str) -> str:
    """Decode a body, which is base64 unless it is JSON. Its end may be missing."""
    if body.lstrip().startswith("["):
        return body
    encoded = body[: len(body) // 4 * 4]
    return base64.b64decode(encoded, validate=True).decode("utf-8", "ignore")


def _read_key_id(token: str) -> str:
    """Return the kid of a compact JWS, or an empty text."""
    header, dot, _ = token.partition(".")
    if not dot:
        return ""
    match parse_json(decode_base64url(header)):
        case {"kid": str(key_id)}:
            return key_id
    return ""


def _parse_claim(text: str, partial: Literal["on", "trailing-strings"] = "trailing-strings") -> Any:
    return from_json(text, allow_partial=partial)


MAX_LANES = 256
"""The number of lanes of single tenants."""

SHARED_LANES = 16
"""The number of lanes that all others share: made-up names cannot create more."""

MESSAGE_COST = 16_384
"""The cost of a message in bytes besides its length, which stands for its items."""

MIN_DEPTH, MAX_DEPTH = 4, 256
"""The limits of the number of served frames that lie ready for workers."""

STARVED_AFTER = 0.2
"""The time in seconds after which a queue from which nothing is taken counts as starved."""

MIN_STARVED_FOR, MAX_STARVED_FOR = 0.5, 8.0
"""The time in seconds after which a starved queue is tried again; it doubles if that fails."""


class Move(NamedTuple):
    """A frame that is to wait: its number in the part of the queue that was read, and its lane."""

    number: int
    lane: str


def lane_tenant(lane: str) -> str:
    """Return the tenant of a lane, which shares its turns among its lanes."""
    return lane.partition(".")[0]


def plan_moves(lanes: Sequence[str], waiting: Collection[str], limit: int) -> list[Move]:
    """Decide which frames wait, given their lanes, from the oldest on.

    All frames of a lane that is in `waiting` do, and all frames of one with more than `limit`. So
    the frames of a lane stay in their order, unless more than MAX_LANES lanes wait.
    """
    known, targets = set(waiting), dict[str, str]()
    for lane, count in Counter(lanes).items():
        target = _choose_lane(lane, known)
        if target in known or count > limit:
            known.add(target)
            targets[lane] = target
    return [Move(number, targets[lane]) for number, lane in enumerate(lanes) if lane in targets]


def _choose_lane(lane: str, waiting: Collection[str]) -> str:
    """Return the lane, or a shared one if too many exist."""
    if lane in waiting or len(waiting) < MAX_LANES:
        return lane
    return f"{UNKNOWN_TENANT}{crc32(lane.encode()) % SHARED_LANES}"


class LaneLimits(NamedTuple):
    """The greatest length of a tenant's lane, and the age in seconds of its oldest message."""

    messages: int = DEFAULT_MAX_MESSAGES
    age: float = 600.0

    @property
    def full_at(self) -> int:
        """The length at which messages are dropped, of producers that heed no limit."""
        return 10 * self.messages


def limits_of(tenant: str, limits: Mapping[str, LaneLimits]) -> LaneLimits:
    """Return the limits of a tenant, or those of SERVICE_FIELD if it has none of its own."""
    return limits.get(tenant) or limits.get(SERVICE_FIELD) or LaneLimits()


def busy_seconds(
    length: int, age: float | None, limits: LaneLimits, per_second: float
) -> int | None:
    """Return the seconds until a lane is within its limits again; None if it is now.

    per_second is the number of its messages that were recently served. A tenth of the limits stays
    free, so that its clients do not all come back for the same place.
    """
    is_old = age is not None and age > limits.age
    if length < limits.messages and not is_old:
        return None
    excess = length - 0.9 * limits.messages
    if age is not None and is_old:
        excess = max(excess, length * (1 - 0.9 * limits.age / age))
    seconds = excess / per_second if per_second > 0 else MAX_BUSY_SECONDS
    return int(min(max(seconds, 1), MAX_BUSY_SECONDS))


class ServiceRates:
    """The number of messages per second that were served from each lane. Recent ones count most."""

    def __init__(self) -> None:
        self._rates: dict[str, float] = {}
        self._counts: Counter[str] = Counter()

    def count(self, lane: str) -> None:
        """Record that a message was served."""
        self._counts[lane] += 1

    def measure(self, seconds: float) -> Mapping[str, float]:
        """Return the rates, given the time since the last call."""
        lanes = {*self._rates, *self._counts}
        new = {lane: self._counts[lane] / max(seconds, 0.01) for lane in lanes}
        rates = {lane: (self._rates.get(lane, rate) + rate) / 2 for lane, rate in new.items()}
        self._rates = {lane: rate for lane, rate in rates.items() if rate > 0.01}  # noqa: PLR2004
        self._counts.clear()
        return self._rates


class VirtualTimes:
    """Decides whose turn it is: the tenant with the smallest time, which grows with its costs.

    This is start-time fair queueing (Goyal, Vin and Cheng, 1996). A tenant gains nothing from not
    having had messages before.
    """

    def __init__(self) -> None:
        self._now = 0
        self._ends: dict[str, int] = {}

    def time(self, tenant: str) -> int:
        """Return the time of a tenant's next frame, relative to the others."""
        return max(self._now, self._ends.get(tenant, 0))

    def charge(self, tenant: str, length: int) -> None:
        """Record that a frame of this tenant was served."""
        self._now = self.time(tenant)
        self._ends[tenant] = self._now + length + MESSAGE_COST
        if len(self._ends) > MAX_LANES + SHARED_LANES:
            self._ends.clear()  # all are equal again


class Depth:
    """Decides how many served frames lie ready for workers: enough until the next pass.

    More would make workers no faster, and others wait longer.
    """

    def __init__(self) -> None:
        self.frames = MIN_DEPTH

    def adapt(self, remaining: int) -> None:
        """Adapt to the number of frames that workers left since the last pass."""
        if remaining == 0:
            self.frames = min(self.frames * 2, MAX_DEPTH)
        elif remaining > self.frames // 2:
            self.frames = max(self.frames - 1, MIN_DEPTH)


class BulkWatch:
    """Notices that workers take nothing from the bulk queue.

    Either no worker consumes it, or new messages arrive in the interactive queue, which comes
    first, faster than workers take them. Served frames then go to the interactive queue.
    """

    def __init__(self) -> None:
        self._ready = 0
        self._progress_at: float | None = None
        self._starved_until = 0.0
        self._starved_for = MIN_STARVED_FOR

    def is_starved(self, now: float) -> bool:
        """Return whether served frames go to the interactive queue, instead of to bulk."""
        return now < self._starved_until

    def observe(self, remaining: int, ready: int, now: float) -> bool:
        """Record how many served frames a pass found in the bulk queue, and how many it left.

        Returns whether the queue has just been found to be starved.
        """
        if self._progress_at is None:
            self._progress_at = now
        elif remaining < self._ready:
            self._progress_at, self._starved_for = now, MIN_STARVED_FOR
        self._ready = ready
        if now - self._progress_at <= STARVED_AFTER:
            return False
        self._starved_until, self._progress_at = now + self._starved_for, None
        self._starved_for = min(self._starved_for * 2, MAX_STARVED_FOR)
        return True

    def reset(self) -> None:
        """Forget what was observed, because nothing waits."""
        self._progress_at = None
