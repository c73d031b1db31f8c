"""One pass of the fair queue: sorts what is new, and serves what waits."""

import secrets
import time
from typing import NamedTuple

import redis

from valetkey.wire.messages import BULK_QUEUE, INTERACTIVE_QUEUE
from worker.broker.sharing import scripts
from worker.broker.sharing.claimed_tenant import PREFIX_BYTES, claimed_tenant
from worker.broker.sharing.lanes import (
    MAX_LANES,
    MESSAGE_COST,
    SHARED_LANES,
    BulkWatch,
    Depth,
    VirtualTimes,
    lane_name,
    lane_tenant,
    plan_moves,
)
from worker.broker.sharing.queue_lengths import WAITING, lane_key, waiting_lanes

INTERACTIVE_LIMIT = 16
"""The number of small requests of a tenant in the queue from which they wait for their turn."""

BULK_LIMIT = 32
"""As INTERACTIVE_LIMIT, for bulk. A client has at most this number in the queue for one batch."""

_MAX_FRAMES = 500  # read in one pass, which takes some 10 ms
_MAX_BYTES = 4_000_000
_MAX_SHIFT = 1_000  # frames that workers take while the frames of a pass are read


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


class QueueSharing:
    """Shares the workers among tenants, by moving frames between Redis lists.

    While no tenant has more than a few frames in a queue, it only reads the queues' lengths.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._read = client.register_script(scripts.READ_OLDEST)
        self._move = client.register_script(scripts.MOVE)
        self._serve = client.register_script(scripts.SERVE)
        self._times = VirtualTimes()
        self._depth = Depth()
        self._bulk_watch = BulkWatch()
        self.waiting: set[str] = set()
        """The lanes in which frames wait."""
        self._has_served = True  # by an earlier process, until a pass finds nothing of it

    def load_lanes(self) -> None:
        """Read which lanes have frames: another process may have put them there."""
        self.waiting = set(waiting_lanes(self._client)[: MAX_LANES + SHARED_LANES])

    def run_pass(self) -> Pass:
        """Sort the oldest frames of both queues, then serve what waits. Raises RedisError."""
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
            [queue], [scripts.MARK, ignored, _MAX_FRAMES, _MAX_BYTES, PREFIX_BYTES]
        )
        offsets, prefixes = found[::2], found[1::2]
        is_bulk = queue == BULK_QUEUE
        claims = [lane_name(claimed_tenant(prefix), is_bulk=is_bulk) for prefix in prefixes]
        moves = plan_moves(claims, self.waiting, limit)
        if moves:
            self._move_frames(queue, [(offsets[n], lane, prefixes[n]) for n, lane in moves])
        return _Queue(served, bool(has_more), bool(moves))

    def _move_frames(self, queue: str, moves: list[tuple[int, str, bytes]]) -> None:
        """Move frames, given by offset, lane and prefix."""
        lanes = list(dict.fromkeys(lane for _, lane, _ in moves))
        self.waiting.update(lanes)
        numbers = {lane: number for number, lane in enumerate(lanes, start=3)}
        arguments: list[str | int | bytes] = [secrets.token_hex(16), scripts.MARK, _MAX_SHIFT]
        for offset, lane, prefix in moves:
            arguments += [offset, numbers[lane], prefix]
        self._move([queue, WAITING, *map(lane_key, lanes)], arguments)

    def _serve_from_lanes(self, interactive: _Queue, bulk: _Queue) -> None:
        """Put frames into the bulk queue, or into the interactive one while bulk is starved."""
        now = time.monotonic()
        is_starved = self._bulk_watch.is_starved(now)
        queue, found = (INTERACTIVE_QUEUE, interactive) if is_starved else (BULK_QUEUE, bulk)
        if found.has_more:
            return  # what is served now would come after all of that
        self._depth.adapt(found.served)
        served = self._serve_frames(queue, self._depth.frames - found.served)
        if not is_starved and self._bulk_watch.observe(found.served, found.served + served, now):
            for _ in range(found.served + served):
                self._client.lmove(BULK_QUEUE, INTERACTIVE_QUEUE, "RIGHT", "LEFT")

    def _serve_frames(self, queue: str, room: int) -> int:
        """Serve up to `room` frames, and return how many."""
        if room <= 0:
            return 0
        lanes = sorted(self.waiting)
        times = [self._times.time(lane_tenant(lane)) for lane in lanes]
        keys = [queue, WAITING, *map(lane_key, lanes)]
        served = self._serve(keys, [scripts.MARK, room, MESSAGE_COST, *times])
        count = 0
        for number, length in zip(served[::2], served[1::2], strict=True):
            lane = lanes[number - 3]
            if length:
                self._times.charge(lane_tenant(lane), length)
                count += 1
            else:
                self.waiting.discard(lane)
        return count
