"""The manifest: the file of a batch's results that the service writes to storage."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from valetkey.errors import NoAnswer, StorageError
from valetkey.wire.replies import BatchState, Grant, ManifestState

DEFAULT_TIMEOUT = 600.0  # seconds: a million lines take a minute, longer if storage is slow
NOT_REQUESTED = "this batch has no manifest: pass manifest= when you request it"
_FIRST_INTERVAL = 0.25  # seconds until the second query
_MAX_INTERVAL = 5.0  # seconds
_MIN_LIMIT, _MAX_LIMIT = 1.0, 30.0  # seconds in which a query is answered


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


def written_state(state: BatchState) -> ManifestState | None:
    """Return the state of a batch's manifest once it is written, and None before.

    Raises StorageError if it cannot be written, and ValueError if the batch has no manifest. A
    state that only a later service has counts as `pending`.
    """
    manifest = state.manifest
    if manifest is None:
        raise ValueError(NOT_REQUESTED)
    if manifest.state == "failed":
        raise StorageError(f"the manifest {manifest.key!r} was not written: {manifest.problem}")
    return manifest if manifest.state == "written" else None


def build_manifest(state: ManifestState, grant: Grant) -> Manifest:
    """Return the Manifest for a written state and a link to its file."""
    size, digest = state.bytes or 0, state.sha256 or ""
    return Manifest(state.key, size, digest, state.issued, state.refused, grant)


class Poll(NamedTuple):
    """The pause after a query, and the longest wait for its response, in seconds."""

    pause: float
    limit: float


def poll_intervals(timeout: float, clock: Callable[[], float]) -> Iterator[Poll]:
    """Yield the waits of one query after the other; the pauses grow.

    Raises NoAnswer once `timeout` seconds have passed. A query is given _MIN_LIMIT seconds even if
    fewer are left.
    """
    end, interval = clock() + timeout, _FIRST_INTERVAL
    while (remaining := end - clock()) > 0:
        limit = min(max(remaining, _MIN_LIMIT), _MAX_LIMIT)
        yield Poll(min(interval, remaining), limit)
        interval = min(2 * interval, _MAX_INTERVAL)
    raise NoAnswer(f"the manifest was not written within {timeout:g} s: ask for it again")
