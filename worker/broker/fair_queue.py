"""Shares the issuing workers among tenants, so that no tenant's requests delay another's.

Workers take messages from the queues in the order of their arrival, and know nothing of this. If a
tenant has many messages in a queue, they are moved into a list of its own, its lane, and return to
the bulk queue when it is the tenant's turn. Clients write into their lanes if a queue is long.

Redis runs each Lua script atomically, so that no frame is lost or doubled. A list's oldest frame is
the last one, at index -1. A frame that was served ends with SERVED_MARK, and is not moved again;
JSON ignores the space. redis-py sends a script by its digest.
"""

import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import redis
import structlog
from redis.exceptions import LockError
from redis.lock import Lock

from valetkey.delivery.redis_clients import open_redis
from valetkey.wire import BULK_QUEUE, INTERACTIVE_QUEUE
from valetkey.wire.waiting import (
    LANE_STATES,
    PROBE_TENANT,
    SERVED_MARK,
    SERVICE_FIELD,
    WAITING_LANES,
    dump_lane_state,
    lane_key,
    lane_name,
)
from worker.broker.lanes import (
    MAX_LANES,
    MESSAGE_COST,
    PREFIX_BYTES,
    SHARED_LANES,
    BulkWatch,
    Depth,
    LaneLimits,
    ServiceRates,
    VirtualTimes,
    busy_seconds,
    claimed_tenant,
    lane_tenant,
    limits_of,
    plan_moves,
)
from worker.broker.queues import SHARING_LEASE, lane_depths, waiting_lanes

READ_OLDEST_SCRIPT = """
local mark, ignored = ARGV[1], tonumber(ARGV[2])
local max_frames, max_bytes, prefix = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local length = redis.call('LLEN', KEYS[1])
if length <= ignored then
  return {0, 0}
end
local found, bytes, offset = {0, 0}, 0, 0
while offset < length do
  if offset >= max_frames or bytes >= max_bytes then
    found[1] = 1
    break
  end
  local frame = redis.call('LINDEX', KEYS[1], -1 - offset)
  bytes = bytes + #frame
  if string.sub(frame, -#mark) == mark then
    found[2] = found[2] + 1
  else
    found[#found + 1] = offset
    found[#found + 1] = string.sub(frame, 1, prefix)
  end
  offset = offset + 1
end
return found
"""
"""KEYS: queue. ARGV: MARK, length that is ignored, most frames, most bytes, bytes of a prefix.

Returns 1 if there is more to read, else 0; the number of frames with MARK; then, for each other
frame, its offset from the oldest one, and its prefix.
"""

MOVE_SCRIPT = """
local queue, index, tombstone, mark = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local max_shift = tonumber(ARGV[3])

local function frame_at(offset, prefix)
  local frame = offset >= 0 and redis.call('LINDEX', queue, -1 - offset)
  if frame and string.sub(frame, 1, #prefix) == prefix and string.sub(frame, -#mark) ~= mark then
    return frame
  end
end

local function succeeds(...)
  local result = redis.pcall(...)
  return not (type(result) == 'table' and result.err)
end

local newest, shift = tonumber(ARGV[#ARGV - 2]), 0
while not frame_at(newest - shift, ARGV[#ARGV]) do
  shift = shift + 1
  if shift > max_shift then
    return 0
  end
end
local moved, dropped = 0, 0
for i = #KEYS + 2, #ARGV, 3 do
  local number = tonumber(ARGV[i + 1])
  local offset, lane = tonumber(ARGV[i]) - shift, KEYS[number]
  local frame, length = frame_at(offset, ARGV[i + 2]), redis.pcall('LLEN', lane)
  if frame and type(length) == 'number' and length >= tonumber(ARGV[number + 1]) then
    redis.call('LSET', queue, -1 - offset, tombstone)
    moved, dropped = moved + 1, dropped + 1
  elseif frame and succeeds('SADD', index, string.sub(lane, #index + 2))
      and succeeds('LPUSH', lane, frame) then
    redis.call('LSET', queue, -1 - offset, tombstone)
    moved = moved + 1
  end
end
if moved > 0 then
  redis.call('LREM', queue, -moved, tombstone)
end
return dropped
"""
"""KEYS: queue, index of lanes, lanes.

ARGV: a unique text, MARK, largest shift, greatest length of each lane, moves.

A move is the offset of a frame, the number of its lane's key, and its prefix. Workers may have
taken older frames since these offsets were read: the position of the newest frame shows how many. A
frame that is not where it is expected stays in the queue. One whose lane has its greatest length is
deleted. Returns how many frames were deleted.
"""

SERVE_SCRIPT = """
local destination, index, mark = KEYS[1], KEYS[2], ARGV[1]
local room, message_cost = tonumber(ARGV[2]), tonumber(ARGV[3])
local goes_first = ARGV[4] == '1'
local times, served, frames = {}, {}, {}
for i = 3, #KEYS do
  times[i] = tonumber(ARGV[i + 2])
end
while goes_first do  -- what was served before stays before it
  local frame = redis.call('LINDEX', destination, -1)
  if not frame or string.sub(frame, -#mark) ~= mark or #frames >= room then
    break
  end
  frames[#frames + 1] = redis.call('RPOP', destination)
end
while room > 0 do
  local lane
  for i = 3, #KEYS do
    if times[i] and (not lane or times[i] < times[lane]) then
      lane = i
    end
  end
  if not lane then
    break
  end
  local frame = redis.pcall('RPOP', KEYS[lane])
  if type(frame) == 'string' then
    if goes_first then
      frames[#frames + 1] = frame .. mark
    else
      redis.call('LPUSH', destination, frame .. mark)
    end
    times[lane] = times[lane] + #frame + message_cost
    served[#served + 1] = lane
    served[#served + 1] = #frame
    room = room - 1
  else
    times[lane] = nil
    redis.pcall('SREM', index, string.sub(KEYS[lane], #index + 2))
    served[#served + 1] = lane
    served[#served + 1] = 0
  end
end
for i = #frames, 1, -1 do
  redis.call('RPUSH', destination, frames[i])
end
return served
"""
"""KEYS: destination, index of lanes, lanes.

ARGV: MARK, most frames, cost of one, 1 to put them before all others, times of lanes. Serves frames
of the lane with the smallest time, which then grows by the frame's cost. Returns the number of the
lane's key and the length of each served frame; a length of 0 is an empty lane.
"""

RETURN_SCRIPT = """
local frames = redis.call('RPOP', KEYS[1], ARGV[1]) or {}
for i = #frames, 1, -1 do
  redis.call('RPUSH', KEYS[2], frames[i])
end
"""
"""KEYS: two queues. ARGV: a number of frames, which become the oldest ones of the other queue."""

FIND_SCRIPT = """
local found = {}
for i = 2, #KEYS do
  local length = redis.pcall('LLEN', KEYS[i])
  if type(length) == 'number' and length > 0 then
    local lane = string.sub(KEYS[i], #KEYS[1] + 2)
    redis.pcall('SADD', KEYS[1], lane)
    found[#found + 1] = lane
  end
end
return found
"""
"""KEYS: index of lanes, lanes. Adds to the index those that have frames, and returns them."""


INTERACTIVE_LIMIT = 16
"""The number of small requests of a tenant in the queue from which they wait for their turn."""

BULK_LIMIT = 32
"""As INTERACTIVE_LIMIT, for bulk. A client has at most this number in the queue for one batch."""

_MAX_FRAMES = 500  # read in one pass, which takes some 10 ms
_MAX_BYTES = 4_000_000
_MAX_SHIFT = 1_000  # frames that workers take while the frames of a pass are read
_FOUND_LANES = 2_000  # looked at in one pass, in about a millisecond
STATES_LIFETIME = 10  # seconds


class Pass(NamedTuple):
    """The result of a pass.

    Frames wait; tenants that wait are still sending; or there is more to sort at once.
    """

    is_waiting: bool
    is_growing: bool
    has_more: bool


class _Queue(NamedTuple):
    """The state of a queue: its served frames, if it has more than was read, if some were moved."""

    served: int
    has_more: bool
    was_sorted: bool


Limits = Callable[[], Mapping[str, LaneLimits]]
"""Returns the limits of the known tenants; those of SERVICE_FIELD are for all others.

Empty until the tenants are known.
"""


class QueueSharing:
    """Shares the workers among tenants, by moving frames between Redis lists.

    While no tenant has more than a few frames in a queue, it only reads the lengths of lists.
    limits returns those of the known tenants, whose lanes are served whoever writes there.
    count_dropped records how many frames were deleted, because their lane is full.
    """

    def __init__(
        self,
        client: redis.Redis,
        limits: Limits = dict,
        count_dropped: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._client = client
        self._limits = limits
        self._count_dropped = count_dropped
        self._find = client.register_script(FIND_SCRIPT)
        self._return = client.register_script(RETURN_SCRIPT)
        self._rates = ServiceRates()
        self._measured_at = time.monotonic()
        self._since: dict[str, float] = {}  # the times from which lanes are known to wait
        self._looked_at = 0  # the number of the lane to look at next
        self._read = client.register_script(READ_OLDEST_SCRIPT)
        self._move = client.register_script(MOVE_SCRIPT)
        self._serve = client.register_script(SERVE_SCRIPT)
        self._times = VirtualTimes()
        self._depth = Depth()
        self._bulk_watch = BulkWatch()
        self.waiting: set[str] = set()
        """The lanes in which frames wait."""
        self._has_served = True  # by an earlier process, until a pass finds nothing of it

    def load_lanes(self) -> None:
        """Read which lanes have frames: another process may have put them there."""
        self.waiting = set(waiting_lanes(self._client)[: MAX_LANES + SHARED_LANES])

    def find_lanes(self) -> None:
        """Look for frames that clients wrote into their tenant's lane. Raises RedisError."""
        tenants = [*self._limits(), PROBE_TENANT]
        lanes = [
            lane_name(tenant, is_bulk=is_bulk) for tenant in tenants for is_bulk in (False, True)
        ]
        start = self._looked_at if self._looked_at < len(lanes) else 0
        self._looked_at = start + _FOUND_LANES
        keys = map(lane_key, lanes[start : self._looked_at])
        self.waiting |= {lane.decode() for lane in self._find([WAITING_LANES, *keys])}

    def write_states(self) -> None:
        """Write what each tenant may send, in place of what is there. Raises RedisError.

        Until the tenants are known, clients must not write into their lanes: nothing would look.
        """
        limits = self._limits()
        if SERVICE_FIELD not in limits:
            return
        now = time.monotonic()
        rates = self._rates.measure(now - self._measured_at)
        self._measured_at = now
        busy: defaultdict[str, dict[str, int]] = defaultdict(dict)
        depths = lane_depths(self._client, [*map(lane_key, lanes := sorted(self.waiting))])
        self._since = {lane: self._since.get(lane, self._measured_at) for lane in lanes}
        for lane, (length, said) in zip(lanes, depths.values(), strict=True):
            tenant = lane_tenant(lane)
            rate = rates.get(lane, 0.0)
            # Anyone can write a message in a tenant's name that says to be old.
            age = None if said is None else min(said, now - self._since[lane])
            seconds = busy_seconds(length, age, limits_of(tenant, limits), rate)
            if seconds is not None:
                busy[tenant][lane] = seconds
        usual = limits[SERVICE_FIELD].messages
        special = {name for name, each in limits.items() if each.messages != usual}
        states: dict[Any, Any] = {  # of redis-py's types
            tenant: dump_lane_state(limits_of(tenant, limits).messages, busy[tenant])
            for tenant in special | {*busy, SERVICE_FIELD}
        }
        with self._client.pipeline() as pipe:  # whatever others wrote there, of any type
            pipe.delete(LANE_STATES)
            pipe.hset(LANE_STATES, mapping=states)
            pipe.expire(LANE_STATES, STATES_LIFETIME)
            pipe.execute()

    def run_pass(self) -> Pass:
        """Sort the oldest frames of both queues, then serve what waits. Raises RedisError."""
        self.find_lanes()
        interactive = self._sort(INTERACTIVE_QUEUE, INTERACTIVE_LIMIT)
        # While anything waits, all bulk requests take their turns: they come last anyway.
        bulk = self._sort(BULK_QUEUE, 0 if self.waiting else BULK_LIMIT)
        # The last frames that were served may still be in a queue that nobody takes from.
        if self.waiting or (self._has_served and bulk.served):
            self._serve_from_lanes(interactive, bulk)
            self._has_served = True
        else:
            self._bulk_watch.reset()
            self._times = VirtualTimes()
            self._has_served = False
        queues = (interactive, bulk)
        return Pass(
            is_waiting=bool(self.waiting) or self._has_served,
            is_growing=any(queue.was_sorted for queue in queues),
            has_more=any(queue.has_more and queue.was_sorted for queue in queues),
        )

    def _sort(self, queue: str, limit: int) -> _Queue:
        """Move frames of the tenants that must wait from a queue into their lanes."""
        ignored = -1 if self.waiting or self._has_served else limit
        has_more, served, *found = self._read(
            [queue], [SERVED_MARK, ignored, _MAX_FRAMES, _MAX_BYTES, PREFIX_BYTES]
        )
        offsets, prefixes = found[::2], found[1::2]
        is_bulk = queue == BULK_QUEUE
        known = self._known_tenants() if prefixes else ()
        claims = [lane_name(claimed_tenant(prefix, known), is_bulk=is_bulk) for prefix in prefixes]
        # If not even a pass sees all of a queue, all tenants take turns.
        moves = plan_moves(claims, self.waiting, 0 if has_more and self.waiting else limit)
        if moves:
            self._move_frames(queue, [(offsets[n], lane, prefixes[n]) for n, lane in moves])
        return _Queue(served, bool(has_more), bool(moves))

    def _known_tenants(self) -> Collection[str]:
        """Return whose claims count: a sender of many made-up names would have most of the turns.

        None until the config was read.
        """
        tenants = {*self._limits()} - {SERVICE_FIELD}
        return tenants | {PROBE_TENANT} if tenants else tenants

    def _move_frames(self, queue: str, moves: list[tuple[int, str, bytes]]) -> None:
        """Move frames, given by offset, lane and prefix."""
        lanes = list(dict.fromkeys(lane for _, lane, _ in moves))
        self.waiting.update(lanes)
        numbers = {lane: number for number, lane in enumerate(lanes, start=3)}
        limits = self._limits()
        arguments: list[str | int | bytes] = [secrets.token_hex(16), SERVED_MARK, _MAX_SHIFT]
        arguments += [limits_of(lane_tenant(lane), limits).full_at for lane in lanes]
        for offset, lane, prefix in moves:
            arguments += [offset, numbers[lane], prefix]
        dropped = self._move([queue, WAITING_LANES, *map(lane_key, lanes)], arguments)
        if dropped:
            self._count_dropped(dropped)

    def _serve_from_lanes(self, interactive: _Queue, bulk: _Queue) -> None:
        """Put frames into the bulk queue, or into the interactive one while bulk is starved."""
        now = time.monotonic()
        is_starved = self._bulk_watch.is_starved(now)
        queue, found = (INTERACTIVE_QUEUE, interactive) if is_starved else (BULK_QUEUE, bulk)
        self._depth.adapt(found.served)
        # Behind all that is still to be sorted, it would wait as long as that.
        room = self._depth.frames - found.served
        served = self._serve_frames(queue, room, goes_first=found.has_more)
        if not is_starved and self._bulk_watch.observe(found.served, found.served + served, now):
            self._return([BULK_QUEUE, INTERACTIVE_QUEUE], [found.served + served])

    def _serve_frames(self, queue: str, room: int, *, goes_first: bool) -> int:
        """Serve up to `room` frames, and return how many."""
        if room <= 0:
            return 0
        lanes = sorted(self.waiting)
        times = [self._times.time(lane_tenant(lane)) for lane in lanes]
        keys = [queue, WAITING_LANES, *map(lane_key, lanes)]
        served = self._serve(keys, [SERVED_MARK, room, MESSAGE_COST, int(goes_first), *times])
        count = 0
        for number, length in zip(served[::2], served[1::2], strict=True):
            lane = lanes[number - 3]
            if length:
                self._times.charge(lane_tenant(lane), length)
                self._rates.count(lane)
                count += 1
            else:
                self.waiting.discard(lane)
        return count


LEASE_SECONDS = 3.0
"""The time after which another process takes over from one that was killed."""

_GROWING_INTERVAL = 0.01  # seconds between two passes while more messages arrive that must wait
_BUSY_INTERVAL = 0.025  # while messages wait
_IDLE_INTERVAL = 0.25
_MIN_BACKOFF, _MAX_BACKOFF = 0.5, 3.0
_LOG_INTERVAL = 60.0
_NEVER = -1  # the time to live of a key that does not expire
_SOCKET_OPTIONS = {"socket_timeout": 5, "socket_connect_timeout": 3}

log = structlog.get_logger()


def _keep(lease: Lock, client: redis.Redis) -> bool:
    """Renew or take the lease; return false if another process has it.

    A process that was paused may believe for a moment that it still has it, so what it does must be
    correct even if two processes do it.
    """
    try:
        return lease.reacquire()
    except LockError:
        if client.pttl(SHARING_LEASE) == _NEVER:  # not of such a process
            client.delete(SHARING_LEASE)
        return bool(lease.acquire(blocking=False))


class FairQueue:
    """Moves messages between lists of the broker, as long as it runs.

    Any number of processes may run one: one of them works at a time. Whenever it is killed, all
    messages are in a queue or in a list of waiting messages, from which another process serves
    them.
    """

    def __init__(
        self,
        broker_url: str,
        limits: Limits = dict,
        count_dropped: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._broker_url = broker_url
        self._limits, self._count_dropped = limits, count_dropped
        self._logged_at = float("-inf")

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set. If the broker is lost, log that and try again."""
        backoff = _MIN_BACKOFF
        while not stop.is_set():
            started = time.monotonic()
            try:
                self._share(stop)
            except (redis.RedisError, OSError, ValueError) as error:
                # Only its type: the text may contain a part of the URL.
                log.warning("fair_queue_postponed", problem=type(error).__name__)
            except Exception:
                log.exception("fair_queue_failed")
            if time.monotonic() - started > _MAX_BACKOFF:
                backoff = _MIN_BACKOFF
            stop.wait(backoff)
            backoff = min(backoff * 2, _MAX_BACKOFF)

    def _share(self, stop: threading.Event) -> None:
        with open_redis(self._broker_url, protocol=2, **_SOCKET_OPTIONS) as client:
            lease = client.lock(SHARING_LEASE, LEASE_SECONDS)
            sharing = QueueSharing(client, self._limits, self._count_dropped)
            renew_at = 0.0
            while not stop.is_set():
                if time.monotonic() >= renew_at:
                    if not _keep(lease, client):
                        stop.wait(LEASE_SECONDS / 4)
                        continue
                    renew_at = time.monotonic() + LEASE_SECONDS / 4
                    sharing.load_lanes()
                    sharing.write_states()
                stop.wait(self._run_pass(sharing))
            client.delete(LANE_STATES)  # so that clients write into no lane that nobody serves
            with suppress(LockError):
                lease.release()  # so that another process need not wait for its expiry

    def _run_pass(self, sharing: QueueSharing) -> float:
        """Run a pass, and return the time in seconds until the next one."""
        started = time.monotonic()
        result = sharing.run_pass()
        if not result.is_waiting:
            return _IDLE_INTERVAL
        now = time.monotonic()
        if sharing.waiting and now - self._logged_at > _LOG_INTERVAL:
            self._logged_at = now
            tenants = {lane_tenant(lane) for lane in sharing.waiting}
            log.info("tenants_wait", tenants=sorted(tenants))
        if result.has_more:
            return 0.0
        # If the broker is slow, leave it at least half of its time.
        return max(_GROWING_INTERVAL if result.is_growing else _BUSY_INTERVAL, now - started)
