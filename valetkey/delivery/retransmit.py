"""The reliable sender's decisions: what is unanswered, and when it is sent again.

Nothing here sends or waits. A broker may lose any message, so a chunk that stays silent is sent
again, with growing gaps, until it is answered or given up; the service charges a batch once
however often a chunk arrives.
"""

from collections.abc import Callable
from dataclasses import dataclass

DEFAULT_WINDOW = 32  # unanswered chunks: at 600 items each, some 12 MB of answers on their way
FIRST_INTERVAL = 3.0  # seconds: a busy queue answers well within it, a lost message waits it out
MAX_INTERVAL = 60.0  # seconds, before jitter
PROBE_INTERVAL = 1.0  # seconds until what was not decided yet is asked for again
_DOUBLINGS = 8


@dataclass
class _Waiting:
    due: float
    sendings: int


class RetransmitTimer:
    """The chunks that wait for an answer, by task id.

    jitter returns a number from 0 to 1; times are seconds of any one clock.
    """

    def __init__(self, jitter: Callable[[], float], window: int = DEFAULT_WINDOW) -> None:
        self._jitter = jitter
        self._window = window
        self._waiting: dict[str, _Waiting] = {}

    @property
    def unanswered(self) -> list[str]:
        """The chunks sent and neither answered nor given up, oldest first."""
        return list(self._waiting)

    @property
    def has_room(self) -> bool:
        """Whether another chunk may be sent before one is answered."""
        return len(self._waiting) < self._window

    def sent(self, chunk: str, now: float) -> None:
        """Note that a chunk was sent, for the first time or again."""
        sendings = self._waiting[chunk].sendings + 1 if chunk in self._waiting else 1
        self._waiting[chunk] = _Waiting(now + self._gap(sendings), sendings)

    def postponed(self, chunk: str, now: float) -> None:
        """Note that a chunk was answered for the time being, and is to be asked for again."""
        if chunk in self._waiting:
            self._waiting[chunk] = _Waiting(now + PROBE_INTERVAL, 0)

    def due(self, now: float) -> list[str]:
        """The chunks that have been silent for too long."""
        return [chunk for chunk, waiting in self._waiting.items() if waiting.due <= now]

    def next_due(self) -> float:
        """When the next chunk will have been silent for too long; never is infinity."""
        return min((waiting.due for waiting in self._waiting.values()), default=float("inf"))

    def settled(self, chunk: str) -> None:
        """Note that a chunk was answered or given up; a second answer changes nothing."""
        self._waiting.pop(chunk, None)

    def _gap(self, sendings: int) -> float:
        # Jitter only lengthens, by less than a doubling does, so that each gap outgrows the last.
        doublings = min(sendings - 1, _DOUBLINGS)
        return float(min(FIRST_INTERVAL * 2**doublings, MAX_INTERVAL) * (1 + self._jitter() / 2))
