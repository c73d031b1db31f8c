"""Waits until the object of a grant is stored: decides when to ask, and what the answer means."""

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from valetkey.errors import NotStored
from valetkey.wire.uses import UseState, UseStates

DEFAULT_TIMEOUT = 600.0  # seconds: a person looks for a file, and a large one is sent
_FIRST_INTERVAL = 0.25  # seconds until the second query
_MAX_INTERVAL = 5.0  # seconds
_MIN_LIMIT = 1.0  # seconds in which a query is answered
_FINAL = frozenset({"unused", "late", "mismatched", "overwritten", "refused"})
_OTHER_KINDS = ("download", "parts")  # which store no object of their own
_REASONS = {
    "open": "is not known to be stored yet: call again to go on waiting",
    "unused": "was never stored: the grant has ended",
    "late": "was stored after the end of the grant",
    "mismatched": "is not the one that was granted",
    "overwritten": "was replaced by that of another grant",
    "unknown": "is not known to be stored, and the grant has ended",
    "refused": "cannot be stored: the grant was refused",
}


class StoredObject(NamedTuple):
    """An object that storage has, as the grant allows it.

    grant is the id of the grant that stored it. etag is without quotes; version is None if the
    bucket keeps no versions. checksum is algorithm:base64, and None if storage tells none.
    """

    key: str
    size: int
    etag: str | None
    version: str | None
    stored_at: datetime
    grant: str
    content_type: str | None = None
    checksum: str | None = None


def require_seconds(timeout: float) -> float:
    """Return a timeout. Raises TypeError if it is no number."""
    if not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be a number of seconds, not {timeout!r}")
    return timeout


class StoredWait:
    """One wait for the object of a grant, whatever sends the queries."""

    def __init__(self, grant_id: str, timeout: float, clock: Callable[[], float]) -> None:
        self._grant_id = grant_id
        self._clock = clock
        self._end = clock() + require_seconds(timeout)
        self._interval = _FIRST_INTERVAL

    @property
    def limit(self) -> float:
        """The longest wait for the answer to the next query, in seconds."""
        return max(self._end - self._clock(), _MIN_LIMIT)

    def receive(self, states: UseStates) -> StoredObject | float:
        """Return the object if it is stored, and otherwise the seconds until the next query.

        Raises NotStored if it will not be stored as granted or the time is over, and ValueError for
        a grant that stores no object.
        """
        if states.kind in _OTHER_KINDS:
            raise ValueError(f"a grant of the kind {states.kind} stores no object to wait for")
        (state,) = states.items
        if state.state == "used" and state.stored_at is not None:
            return _stored_object(self._grant_id, state, state.stored_at)
        remaining = self._end - self._clock()
        if state.state in _FINAL or remaining <= 0:
            raise _not_stored(self._grant_id, state)
        pause = min(self._interval, remaining)
        self._interval = min(2 * self._interval, _MAX_INTERVAL)
        return pause


def _stored_object(grant_id: str, state: UseState, stored_at: datetime) -> StoredObject:
    return StoredObject(
        key=state.key or "",
        size=state.size or 0,
        etag=state.etag,
        version=state.version,
        stored_at=stored_at,
        grant=grant_id,
        content_type=state.content_type,
        checksum=state.checksum,
    )


def _not_stored(grant_id: str, state: UseState) -> NotStored:
    reason = _REASONS.get(state.state, f"is {state.state!r}")
    if state.problem:
        reason = f"{reason}: {state.problem}"
    subject = f"the object of the grant {grant_id}" if state.key is None else repr(state.key)
    return NotStored(f"{subject} {reason}", state)
