"""What is asked: from the arguments of a client's methods to the letters that say it. Pure."""

from collections.abc import AsyncIterable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from valetkey.wire.chunking import ItemInput, batch_header, chunk_messages
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS, VERSION, task_id
from valetkey.wire.pending import PendingMessage, pending_message
from valetkey.wire.states import BatchState
from valetkey.wire.terms import Kind

Item = TypeVar("Item")
Items = Iterable[ItemInput] | AsyncIterable[ItemInput]


class Requester(Protocol):
    """Who asks, and for which tenant."""

    @property
    def tenant(self) -> str:
        """The tenant."""

    @property
    def requested_by(self) -> str:
        """Who asks, for the audit log."""


@dataclass(frozen=True)
class GrantRequest:
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
    chunk_size: int = DEFAULT_CHUNK_ITEMS
    batch_id: str | None = None
    first_chunk: int = 0
    manifest: str | None = None

    def header(self, who: Requester, batch: str) -> tuple[dict[str, Any], Items]:
        """What all its chunks say, and its items, which are listed where they must be counted.

        Raises TypeError and ValueError as batches.header does, and TypeError as counted does.
        """
        items, total = self.items, self.total
        if total is None:
            items = with_known_length(items, "total")
            total = len(items)
        head = batch_header(
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


def with_known_length(items: Iterable[Item] | AsyncIterable[Item], name: str) -> Collection[Item]:
    """Items that know how many they are, read now where they do not.

    Raises TypeError for items that come asynchronously: the argument `name` must then be given.
    """
    if isinstance(items, AsyncIterable):
        raise TypeError(f"items that come asynchronously need {name}=")
    return items if isinstance(items, Collection) else list(items)


def _at_hand(items: Items) -> Iterable[ItemInput]:
    if isinstance(items, AsyncIterable):
        raise TypeError("items that come asynchronously need an AsyncClient")
    return items


def grant_messages(
    request: GrantRequest, who: Requester, batch: str
) -> tuple[dict[str, Any], Iterator[PendingMessage]]:
    """Ask for grants: the header, and its letters as they are read."""
    head, items = request.header(who, batch)
    return head, chunk_messages(head, _at_hand(items), request.first_chunk)


def explain_message(request: GrantRequest, who: Requester, batch: str) -> PendingMessage:
    """Ask what would be decided on a request, by its first chunk.

    Raises ValueError where nothing is asked for.
    """
    head, items = request.header(who, batch)
    first = next(chunk_messages({**head, "ask": "explain"}, _at_hand(items)), None)
    if first is None:
        raise ValueError("no items are asked for")
    return first


def usage_message(who: Requester, name: str) -> PendingMessage:
    """Ask how the tenant's quotas stand."""
    return pending_message(name, {"v": VERSION, "ask": "usage", "tenant": who.tenant})


def cancel_message(who: Requester, name: str, batch: str, reason: str | None) -> PendingMessage:
    """Ask to grant nothing more of a batch."""
    message = {
        "v": VERSION,
        "ask": "cancel",
        "tenant": who.tenant,
        "batch": batch,
        "requested_by": who.requested_by,
    }
    return pending_message(name, message if reason is None else {**message, "reason": reason})


def batch_state_message(who: Requester, name: str, batch: str) -> PendingMessage:
    """Ask how far a batch has come."""
    message = {"v": VERSION, "ask": "batch", "tenant": who.tenant, "batch": batch}
    return pending_message(name, message)


def reopen_messages(who: Requester, name: str, of: BatchState) -> Iterator[PendingMessage]:
    """Ask for each chunk of a batch again, under task names that begin with this one."""
    asked = {"v": VERSION, "ask": "batch", "tenant": who.tenant, "batch": of.batch}
    for chunk in range(-(-of.total // of.chunk_size)):
        yield pending_message(task_id(name, chunk), {**asked, "chunk": chunk}, of)
