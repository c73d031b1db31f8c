"""Decides when a message without a reply is sent again. Pure.

A broker may lose any message, so a message without a reply is sent again, at growing intervals,
until the reply arrives or the sender gives up. The service charges a batch once, however often a
message arrives.

A message may also wait in its queue, because workers are stopped or busy. A copy of it would only
lengthen the queue. Workers take messages in order, so a message that is due is sent again only if

- a later one of its queue was answered: this one was lost, or its worker failed; or
- it is one of the last few of its queue. Their answers prove that those before them were lost.

TCP recovers lost segments by the same rules: RFC 8985, RACK-TLP.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import nlargest
from itertools import count

DEFAULT_WINDOW = 32  # messages without a reply; at 600 items each, their results take some 12 MB
FIRST_INTERVAL = 3.0  # seconds: a busy queue replies well within it; a lost message costs all of it
MAX_INTERVAL = 60.0  # seconds, before jitter
RETRY_INTERVAL = 2.0  # seconds, before jitter, after which a message is due that is in no queue
PROBE_INTERVAL = 1.0  # seconds until a chunk that was not decided yet is requested again
_MAX_DOUBLINGS = 8
_PROBES = 3  # messages of a queue; as many as a common batch has, which then recovers at once


@dataclass
class _Timer:
    """When a message is due, and the places of its first and last send in the order of all sends.

    last is 0 if no copy waits in the queue: it was never sent, or a result came that is no reply.
    """

    queue: str
    due: float
    send_count: int = 0
    first: int = 0
    last: int = 0


class RetransmitTimer:
    """The messages that wait for a reply, by task id, and the time when each is sent again.

    jitter returns a number from 0 to 1. Times are seconds of any one clock. window is the number of
    messages that may wait for a reply at the same time.
    """

    def __init__(self, jitter: Callable[[], float], window: int = DEFAULT_WINDOW) -> None:
        self._jitter = jitter
        self._window = window
        self._timers: dict[str, _Timer] = {}
        self._places = count(1)
        self._answered: dict[str, int] = {}  # the highest place of an answered message, by queue

    @property
    def unanswered(self) -> list[str]:
        """The task ids of the messages that wait for a reply, oldest first."""
        return list(self._timers)

    @property
    def has_room(self) -> bool:
        """True if the window has room for another message."""
        return len(self._timers) < self._window

    def record_send(self, task_id: str, queue: str, now: float) -> None:
        """Record that a message was sent, for the first time or again."""
        timer = self._timers.setdefault(task_id, _Timer(queue, now))
        timer.send_count += 1
        timer.last = next(self._places)
        if timer.send_count == 1:
            timer.first = timer.last
        doublings = min(timer.send_count - 1, _MAX_DOUBLINGS)
        timer.due = now + self._lengthened(min(FIRST_INTERVAL * 2**doublings, MAX_INTERVAL))

    def record_failed_send(self, task_id: str, queue: str, now: float) -> None:
        """Record that the broker did not take a message: it is tried again at a steady interval.

        Growing intervals would delay all messages after an outage by as long as it lasted.
        """
        timer = self._timers.setdefault(task_id, _Timer(queue, now))
        timer.due = now + self._lengthened(RETRY_INTERVAL)

    def record_result(self, task_id: str, now: float) -> None:
        """Record a result: workers took this message, and those sent before its first copy.

        Several workers may take a while to answer these, so none is sent again before that.
        """
        timer = self._timers.get(task_id)
        if timer is None:
            return
        before = self._answered.get(timer.queue, 0)
        self._answered[timer.queue] = max(before, timer.first)
        for other in self._timers.values():
            is_earlier = other.queue == timer.queue and before < other.last < timer.first
            if is_earlier and other is not timer:
                other.due = max(other.due, now + FIRST_INTERVAL)
        timer.last = 0

    def record_given_up(self, task_id: str, now: float) -> None:
        """Record that the service gave up a copy of a message, as it was unavailable for long.

        If there is no other copy, the message is sent again at a steady interval, as in
        record_failed_send.
        """
        timer = self._timers.get(task_id)
        if timer is None:
            return
        timer.send_count -= 1
        if timer.send_count <= 0:
            self.schedule(task_id, timer.queue, now + self._lengthened(RETRY_INTERVAL))

    def postpone(self, task_id: str, now: float) -> None:
        """Record a reply that decides nothing yet: the message is sent again after 1 second."""
        if task_id in self._timers:
            self.schedule(task_id, self._timers[task_id].queue, now + PROBE_INTERVAL)

    def schedule(self, task_id: str, queue: str, due: float) -> None:
        """Let a message be due at a time. No copy of it waits in the queue."""
        self._timers[task_id] = _Timer(queue, due)

    def due(self, now: float) -> list[str]:
        """Return the task ids of the messages to send again now, the longest due first.

        In another order, the same one would always be tried while the broker takes none.
        """
        due = {task_id: timer.due for task_id, timer in self._possibly_lost() if timer.due <= now}
        return sorted(due, key=due.__getitem__)

    def next_due(self) -> float:
        """Return the time when the next message is due; infinity if none waits for a reply."""
        return min((timer.due for _, timer in self._possibly_lost()), default=float("inf"))

    def remove(self, task_id: str) -> bool:
        """Remove a message that was answered or given up; return false if it was not here."""
        return self._timers.pop(task_id, None) is not None

    def _possibly_lost(self) -> Iterator[tuple[str, _Timer]]:
        """Yield the messages that are to be sent again once they are due."""
        places: dict[str, list[int]] = {}
        for timer in self._timers.values():
            places.setdefault(timer.queue, []).append(timer.last)
        probes = {place for each in places.values() for place in nlargest(_PROBES, each)}
        for task_id, timer in self._timers.items():
            if timer.last in probes or timer.last <= self._answered.get(timer.queue, 0):
                yield task_id, timer

    def _lengthened(self, seconds: float) -> float:
        # Jitter only lengthens an interval, by less than doubling it, so that intervals grow.
        return seconds * (1 + self._jitter() / 2)
