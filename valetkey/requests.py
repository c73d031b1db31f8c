"""What is asked: from the arguments of a client's methods to the letters that say it. Pure."""

from collections.abc import AsyncIterable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from valetkey.batches import Asked, chunks, header
from valetkey.letters import Letter, letter
from valetkey.messages import DEFAULT_CHUNK, VERSION, task_id
from valetkey.states import BatchState
from valetkey.terms import Kind

Item = TypeVar("Item")
Items = Iterable[Asked] | AsyncIterable[Asked]


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

    total is how many items there are, where they do not say so themselves. batch_id is that of a
    batch that is asked for again; items are then those from its chunk first_chunk on. manifest is
    the key under which the service is to write all answers.
    """

    kind: Kind
    bucket: str
    items: Items
    options: Mapping[str, Any]
    total: int | None = None
    chunk_size: int = DEFAULT_CHUNK
    batch_id: str | None = None
    first_chunk: int = 0
    manifest: str | None = None

    def header(self, who: Who, batch: str) -> tuple[dict[str, Any], Items]:
        """What all its chunks say, and its items, which are listed where they must be counted.

        Raises TypeError and ValueError as batches.header does, and TypeError as counted does.
        """
        items, total = self.items, self.total
        if total is None:
            items = counted(items, "total")
            total = len(items)
        head = header(
            kind=self.kind,
            tenant=who.tenant,
            requested_by=who.requested_by,
            bucket=self.bucket,
            batch=self.batch_id or batch,
            total=total,
            chunk_size=self.chunk_size,
            options=self.options,
            manifest=self.manifest,
        )
        return head, items


def counted(items: Iterable[Item] | AsyncIterable[Item], name: str) -> Collection[Item]:
    """Items that know how many they are, read now where they do not.

    Raises TypeError for items that come asynchronously: the argument `name` must then be given.
    """
    if isinstance(items, AsyncIterable):
        raise TypeError(f"items that come asynchronously need {name}=")
    return items if isinstance(items, Collection) else list(items)


def _at_hand(items: Items) -> Iterable[Asked]:
    if isinstance(items, AsyncIterable):
        raise TypeError("items that come asynchronously need an AsyncClient")
    return items


def grants(request: Request, who: Who, batch: str) -> tuple[dict[str, Any], Iterator[Letter]]:
    """Ask for grants: the header, and its letters as they are read."""
    head, items = request.header(who, batch)
    return head, chunks(head, _at_hand(items), request.first_chunk)


def explanation(request: Request, who: Who, batch: str) -> Letter:
    """Ask what would be decided on a request, by its first chunk.

    Raises ValueError where nothing is asked for.
    """
    head, items = request.header(who, batch)
    first = next(chunks({**head, "ask": "explain"}, _at_hand(items)), None)
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


def state(who: Who, name: str, batch: str) -> Letter:
    """Ask how far a batch has come."""
    message = {"v": VERSION, "ask": "batch", "tenant": who.tenant, "batch": batch}
    return letter(name, message)


def reopening(who: Who, name: str, of: BatchState) -> Iterator[Letter]:
    """Ask for each chunk of a batch again, under task names that begin with this one."""
    asked = {"v": VERSION, "ask": "batch", "tenant": who.tenant, "batch": of.batch}
    for chunk in range(-(-of.total // of.chunk_size)):
        yield letter(task_id(name, chunk), {**asked, "chunk": chunk}, of)
