"""What is asked: from the arguments of a client's methods to the letters that say it. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any, Protocol

from valetkey.batches import Asked, chunks, header
from valetkey.letters import Letter, letter
from valetkey.messages import DEFAULT_CHUNK, VERSION
from valetkey.terms import Kind


class Who(Protocol):
    """Who asks, and for which tenant."""

    @property
    def tenant(self) -> str:
        """The tenant."""

    @property
    def requested_by(self) -> str:
        """Who asks, for the audit log."""


@dataclass(frozen=True)
class Request:
    """Items of one kind in one bucket profile, on terms that the kind has.

    total is how many items there are, where they do not say so themselves.
    """

    kind: Kind
    bucket: str
    items: Iterable[Asked]
    options: Mapping[str, Any]
    total: int | None = None
    chunk_size: int = DEFAULT_CHUNK

    def header(self, who: Who, batch: str) -> tuple[dict[str, Any], Iterable[Asked]]:
        """What all its chunks say, and its items, which are listed where they must be counted.

        Raises TypeError and ValueError as batches.header does.
        """
        items, total = self.items, self.total
        if total is None:
            items = items if isinstance(items, Sized) else list(items)
            total = len(items)
        head = header(
            kind=self.kind,
            tenant=who.tenant,
            requested_by=who.requested_by,
            bucket=self.bucket,
            batch=batch,
            total=total,
            chunk_size=self.chunk_size,
            options=self.options,
        )
        return head, items


def grants(request: Request, who: Who, batch: str) -> tuple[dict[str, Any], Iterator[Letter]]:
    """Ask for grants: the header, and its letters as they are read."""
    head, items = request.header(who, batch)
    return head, chunks(head, items)


def explanation(request: Request, who: Who, batch: str) -> Letter:
    """Ask what would be decided on a request, by its first chunk.

    Raises ValueError where nothing is asked for.
    """
    head, items = request.header(who, batch)
    first = next(chunks({**head, "ask": "explain"}, items), None)
    if first is None:
        raise ValueError("no items are asked for")
    return first


def usage(who: Who, name: str) -> Letter:
    """Ask how the tenant's quotas stand."""
    return letter(name, {"v": VERSION, "ask": "usage", "tenant": who.tenant})


def cancelling(who: Who, name: str, batch: str, reason: str | None) -> Letter:
    """Ask to grant nothing more of a batch."""
    message = {
        "v": VERSION,
        "ask": "cancel",
        "tenant": who.tenant,
        "batch": batch,
        "requested_by": who.requested_by,
    }
    return letter(name, message if reason is None else {**message, "reason": reason})
