"""Decides when a message without a reply is sent again. Pure.

A broker may lose any message, so a message without a reply is sent again, at growing intervals,
until the reply arrives or the sender gives up. The service charges a batch once, however often a
message arrives.
"""

from collections.abc import Callable
from dataclasses import dataclass

DEFAULT_WINDOW = 32  # messages without a reply; at 600 items each, their results take some 12 MB
FIRST_INTERVAL = 3.0  # seconds: a busy queue replies well within it; a lost message costs all of it
MAX_INTERVAL = 60.0  # seconds, before jitter
PROBE_INTERVAL = 1.0  # seconds until a chunk that was not decided yet is requested again
_MAX_DOUBLINGS = 8


@dataclass
class _Timer:
    due: float
    send_count: int


class RetransmitTimer:
    """The messages that wait for a reply, by task id, and the time when each is sent again.

    jitter returns a number from 0 to 1. Times are seconds of any one clock. window is the number of
    messages that may wait for a reply at the same time.
    """

    def __init__(self, jitter: Callable[[], float], window: int = DEFAULT_WINDOW) -> None:
        self._jitter = jitter
        self._window = window
        self._timers: dict[str, _Timer] = {}

    @property
    def unanswered(self) -> list[str]:
        """The task ids of the messages that wait for a reply, oldest first."""
        return list(self._timers)

    @property
    def has_room(self) -> bool:
        """True if the window has room for another message."""
        return len(self._timers) < self._window

    def record_send(self, task_id: str, now: float) -> None:
        """Record that a message was sent, for the first time or again."""
        send_count = self._timers[task_id].send_count + 1 if task_id in self._timers else 1
        self._timers[task_id] = _Timer(now + self._interval(send_count), send_count)

    def postpone(self, task_id: str, now: float) -> None:
        """Record a reply that decides nothing yet: the message is sent again soon."""
        if task_id in self._timers:
            self._timers[task_id] = _Timer(now + PROBE_INTERVAL, 0)

    def hurry(self, task_id: str, now: float) -> None:
        """Let a message be due now that was not sent by itself yet."""
        self._timers[task_id] = _Timer(now, 0)

    def stop(self, task_id: str) -> None:
        """Wait for the reply to a message that is not sent again."""
        self._timers[task_id] = _Timer(float("inf"), 0)

    def due(self, now: float) -> list[str]:
        """Return the task ids of the messages to send again now."""
        return [task_id for task_id, timer in self._timers.items() if timer.due <= now]

    def next_due(self) -> float:
        """Return the time when the next message is due; infinity if none waits for a reply."""
        return min((timer.due for timer in self._timers.values()), default=float("inf"))

    def remove(self, task_id: str) -> bool:
        """Remove a message that was answered or given up; return false if it was not here."""
        return self._timers.pop(task_id, None) is not None

    def _interval(self, send_count: int) -> float:
        # Jitter only lengthens an interval, by less than doubling it, so that intervals grow.
        doublings = min(send_count - 1, _MAX_DOUBLINGS)
        return float(min(FIRST_INTERVAL * 2**doublings, MAX_INTERVAL) * (1 + self._jitter() / 2))
