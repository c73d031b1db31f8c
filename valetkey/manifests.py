"""The file of a batch's answers that the service writes, as a client waits for it."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from valetkey.errors import NoAnswer, NotStored
from valetkey.wire.messages import Grant
from valetkey.wire.states import BatchState, ManifestState

DEFAULT_TIMEOUT = 600.0  # seconds: a million lines take a minute, on a slow storage longer
NOT_REQUESTED = "no manifest was asked for with this batch"
_FIRST_GAP = 0.25  # seconds until the next look
_LONGEST_GAP = 5.0


class Manifest(NamedTuple):
    """A written file: gzipped, a line of JSON for each answer, in the order asked.

    bytes and sha256 (in hex) are of the file as it is stored; issued and refused count its lines.
    grant is a link to it: whoever has that has all that is in it.
    """

    key: str
    bytes: int
    sha256: str
    issued: int
    refused: int
    grant: Grant


def written_state(state: BatchState) -> ManifestState | None:
    """A batch's file as it is stored; None where it is yet to be written.

    Raises NotStored where it will not be, and ValueError where none was asked for.
    """
    found = state.manifest
    if found is None:
        raise ValueError(NOT_REQUESTED)
    if found.state == "failed":
        raise NotStored(f"the manifest {found.key!r} was not written: {found.problem}")
    return found if found.state == "written" else None


def build_manifest(found: ManifestState, grant: Grant) -> Manifest:
    """A file that is stored, and a link to it."""
    size, digest = found.bytes or 0, found.sha256 or ""
    return Manifest(found.key, size, digest, found.issued, found.refused, grant)


def poll_intervals(timeout: float, clock: Callable[[], float]) -> Iterator[float]:
    """How long to wait behind each look, in seconds: rarer and rarer, until timeout has passed.

    Raises NoAnswer then.
    """
    end, gap = clock() + timeout, _FIRST_GAP
    while (left := end - clock()) > 0:
        yield min(gap, left)
        gap = min(2 * gap, _LONGEST_GAP)
    raise NoAnswer(f"the manifest was not written within {timeout:g} s: ask for it again")
