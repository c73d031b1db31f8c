"""Turns of endpoints and their tenants, when there is more to send than threads."""

from collections import Counter, deque
from collections.abc import Collection, Mapping
from heapq import heapify, heappop, heappush
from typing import NamedTuple


class TurnKey(NamedTuple):
    """The subject of units of work: their owner, such as a tenant, and one of its names."""

    owner: str
    name: str


class TurnLimits(NamedTuple):
    """The most units in flight: in all, of one owner, of one key, and of suspect keys together."""

    total: int
    per_owner: int
    per_key: int
    suspects: int


class Turns:
    """Gives turns to owners and, among the keys of one owner, to its keys.

    The owner with the fewest units in flight is next, then the one that was served longest ago.
    A backlog, or many keys, therefore earns its owner no more turns than any other owner has.
    """

    def __init__(self, limits: TurnLimits) -> None:
        self._limits = limits
        self._by_key: Counter[TurnKey] = Counter()
        self._by_owner: Counter[str] = Counter()
        self._served: dict[TurnKey | str, int] = {}
        self._turn = 0

    def start(self, key: TurnKey) -> None:
        """Count a unit as in flight; its owner and key were served last."""
        self._by_key[key] += 1
        self._by_owner[key.owner] += 1
        self._turn += 1
        self._served[key] = self._served[key.owner] = self._turn

    def end(self, key: TurnKey) -> None:
        """Count a unit as finished."""
        self._by_key[key] -= 1
        self._by_owner[key.owner] -= 1
        self._by_key += Counter()  # removes what is zero
        self._by_owner += Counter()

    def allot(
        self, waiting: Mapping[TurnKey, int], suspects: Collection[TurnKey] = ()
    ) -> dict[TurnKey, int]:
        """Return how many units of each waiting key may start now, in turns.

        waiting maps each key to the most units that it may start. suspects are the keys that are
        likely to be slow; together they may not use up the places of the others.
        """
        self._forget_absent(waiting)
        shares: Counter[TurnKey] = Counter()
        free = self._limits.total - self._by_key.total()
        free_suspects = self._limits.suspects - sum(self._by_key[key] for key in suspects)
        queues = self._queues(waiting)
        owners = [(self._by_owner[owner], self._served.get(owner, 0), owner) for owner in queues]
        heapify(owners)
        while owners and free > 0:
            count, served, owner = heappop(owners)
            key = self._next_key(
                queues[owner], waiting, shares, suspects if free_suspects < 1 else ()
            )
            if key is None or count >= self._limits.per_owner:
                continue
            shares[key] += 1
            free -= 1
            free_suspects -= key in suspects
            heappush(owners, (count + 1, served, owner))
        return dict(shares)

    def _queues(self, waiting: Mapping[TurnKey, int]) -> dict[str, deque[TurnKey]]:
        """Return the waiting keys of each owner, the one served longest ago first."""
        queues: dict[str, deque[TurnKey]] = {}
        for key in sorted(waiting, key=lambda key: self._served.get(key, 0)):
            queues.setdefault(key.owner, deque()).append(key)
        return queues

    def _next_key(
        self,
        queue: deque[TurnKey],
        waiting: Mapping[TurnKey, int],
        shares: Counter[TurnKey],
        excluded: Collection[TurnKey],
    ) -> TurnKey | None:
        while queue:
            key = queue.popleft()
            room = min(waiting[key], self._limits.per_key - self._by_key[key]) - shares[key]
            if room > 0 and key not in excluded:
                queue.append(key)
                return key
        return None

    def _forget_absent(self, waiting: Mapping[TurnKey, int]) -> None:
        present = {*waiting, *self._by_key, *self._by_owner, *(key.owner for key in waiting)}
        self._served = {name: turn for name, turn in self._served.items() if name in present}
