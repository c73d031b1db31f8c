"""Grants and batches as methods name them, their new ids, and waiting for a stored object."""

import secrets
import time
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple, Protocol

from valetkey.errors import NotStored
from valetkey.wire.chunking import uuid7
from valetkey.wire.grant_ids import grant_id, split_grant_id
from valetkey.wire.replies import Grant, UseState, UseStates

STORED_TIMEOUT = 600.0  # seconds: a person looks for a file, and a large one is sent
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


def new_id() -> str:
    """Return a new UUIDv7: a batch id, or the task id of a request that is not a batch."""
    return uuid7(time.time_ns() // 10**6, secrets.token_bytes(10))


class SingleHandle(Protocol):
    """A handle of one grant, such as a GrantHandle."""

    @property
    def id(self) -> str:
        """The batch id of its request."""

    @property
    def batch(self) -> object:
        """The handle of its batch."""


class WholeHandle(Protocol):
    """A handle of a batch, such as a BatchHandle."""

    @property
    def id(self) -> str:
        """The batch id."""

    @property
    def total(self) -> int:
        """The number of its items."""


class Subject(NamedTuple):
    """A batch, and the number of the item that is meant, if it is a single one."""

    batch_id: str
    item: int | None = None


def read_subject(
    subject: str | Grant | SingleHandle | WholeHandle, argument: str = "subject"
) -> Subject:
    """Return the batch and item that are named by a grant, a handle, a grant id or a batch id.

    Raises ValueError for a text that is no id, and TypeError that names the argument for any other
    value.
    """
    if isinstance(subject, str):
        return read_id(subject)
    if isinstance(subject, Grant):
        return read_id(subject.id)
    is_single = hasattr(subject, "batch")
    if not hasattr(subject, "id") or not (is_single or hasattr(subject, "total")):
        name = type(subject).__name__
        raise TypeError(f"{argument} must be a grant, a handle or an id, and is a {name}")
    return Subject(subject.id, 0 if is_single else None)


def read_grant_id(subject: str | Grant | SingleHandle) -> str:
    """Return the id of a grant, or of the grant of a handle.

    Raises as read_subject does, and ValueError for a batch id.
    """
    batch_id, item = read_subject(subject, "grant")
    if item is None:
        raise ValueError(f"{batch_id!r} is the id of a batch: add a dot and the item's number")
    return grant_id(batch_id, item)


def read_id(text: str) -> Subject:
    """Return the batch and item of a grant id or a batch id. Raises ValueError for other texts."""
    if "." not in text:
        return Subject(text)
    try:
        return Subject(*split_grant_id(text))
    except ValueError:
        raise ValueError(f"{text!r} is neither a grant id nor a batch id") from None


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
