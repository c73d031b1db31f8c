"""Waits of a handle after the results: the manifest of a batch, or a stored object.

The manifest is the file of a batch's results that the service writes to storage.
"""

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from valetkey.errors import NoAnswer, NotStored, StorageError
from valetkey.wire.replies import BatchState, Grant, ManifestState, UseState, UseStates
from valetkey.wire.terms import TERMS_BY_KIND, StorageTerms

MANIFEST_TIMEOUT = 600.0  # seconds: a million lines take a minute, longer if storage is slow
STORED_TIMEOUT = 600.0  # seconds: a person looks for a file, and a large one is sent
_FIRST_INTERVAL = 0.25  # seconds until the second query
_MAX_INTERVAL = 5.0  # seconds
_MIN_LIMIT = 1.0  # seconds in which a query is answered
_MAX_MANIFEST_LIMIT = 30.0  # seconds in which a query about a manifest is answered
_FINAL = frozenset({"unused", "late", "mismatched", "overwritten", "refused"})
_OTHER_KINDS = {  # which store no object of their own
    kind for kind, terms in TERMS_BY_KIND.items() if not issubclass(terms, StorageTerms)
}
_REASONS = {
    "open": "is not known to be stored yet: call again to continue waiting",
    "unused": "was never stored: the grant has ended",
    "late": "was stored after the end of the grant",
    "mismatched": "is not the one that was granted",
    "overwritten": "was replaced by that of another grant",
    "unknown": "is not known to be stored, and the grant has ended",
    "refused": "cannot be stored: the grant was refused",
}


class Manifest(NamedTuple):
    """A written manifest: a gzipped file with one line of JSON per item result, in request order.

    bytes and sha256 (in hex) describe the stored file; issued and refused count its lines. grant is
    a link to the file: it gives access to every grant in it.
    """

    key: str
    bytes: int
    sha256: str
    issued: int
    refused: int
    grant: Grant


class StoredObject(NamedTuple):
    """An object that storage has, as the grant allows it.

    grant is the id of the grant that stored it. etag is without quotes; version is None if the
    bucket keeps no versions. checksum is algorithm:base64, and None if storage reports none.
    """

    key: str
    size: int
    etag: str | None
    version: str | None
    stored_at: datetime
    grant: str
    content_type: str | None = None
    checksum: str | None = None


class _Wait:
    """The times at which the service is asked again, whatever sends the queries."""

    def __init__(self, timeout: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._timeout = timeout
        self._end = clock() + timeout
        self._interval = _FIRST_INTERVAL

    @property
    def limit(self) -> float:
        """The longest wait for the answer to the next query, in seconds."""
        return max(self._remaining, _MIN_LIMIT)

    @property
    def _remaining(self) -> float:
        return self._end - self._clock()

    def _next_pause(self) -> float:
        pause = min(self._interval, self._remaining)
        self._interval = min(2 * self._interval, _MAX_INTERVAL)
        return pause


class ManifestWait(_Wait):
    """One wait for the manifest of a batch."""

    @property
    def limit(self) -> float:
        """The longest wait for the answer to the next query, in seconds."""
        return min(super().limit, _MAX_MANIFEST_LIMIT)

    def receive(self, state: BatchState) -> ManifestState | float:
        """Return the state of the manifest if it is written, else the seconds until the next query.

        Raises StorageError if it cannot be written, NoAnswer if the time is over, and ValueError if
        the batch has no manifest. A state that only a later service has counts as `pending`.
        """
        manifest = state.manifest
        if manifest is None:
            raise ValueError("this batch has no manifest: pass manifest= when you request it")
        if manifest.state == "failed":
            raise StorageError(f"the manifest {manifest.key!r} was not written: {manifest.problem}")
        if manifest.state == "written":
            return manifest
        if self._remaining <= 0:
            raise NoAnswer(
                f"the manifest was not written within {self._timeout:g} s: ask for it again"
            )
        return self._next_pause()


def build_manifest(state: ManifestState, grant: Grant) -> Manifest:
    """Return the Manifest for a written state and a link to its file."""
    size, digest = state.bytes or 0, state.sha256 or ""
    return Manifest(state.key, size, digest, state.issued, state.refused, grant)


class StoredWait(_Wait):
    """One wait for the object of a grant."""

    def __init__(self, grant_id: str, timeout: float, clock: Callable[[], float]) -> None:
        super().__init__(timeout, clock)
        self._grant_id = grant_id

    def receive(self, states: UseStates) -> StoredObject | float:
        """Return the object if it is stored, and otherwise the seconds until the next query.

        Raises NotStored if it will not be stored as granted or the time is over, and ValueError for
        a grant that stores no object.
        """
        if states.kind in _OTHER_KINDS:
            raise ValueError(f"a grant of the kind {states.kind} stores no object to wait for")
        (state,) = states.items
        if state.state == "used" and state.stored_at is not None:
            values = state.model_dump(include=set(StoredObject._fields))
            values |= {"key": state.key or "", "size": state.size or 0}
            return StoredObject(grant=self._grant_id, **values)
        if state.state in _FINAL or self._remaining <= 0:
            raise _not_stored(self._grant_id, state)
        return self._next_pause()


def _not_stored(grant_id: str, state: UseState) -> NotStored:
    reason = _REASONS.get(state.state, f"is {state.state!r}")
    if state.problem:
        reason = f"{reason}: {state.problem}"
    subject = f"the object of the grant {grant_id}" if state.key is None else repr(state.key)
    return NotStored(f"{subject} {reason}", state)
