"""Builds messages from the arguments of a client's methods. Pure."""

import json
from collections.abc import AsyncIterable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol, TypeVar

from valetkey.wire.chunking import ItemInput, batch_header, chunk_messages
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS, VERSION
from valetkey.wire.messages import task_id as chunk_task_id
from valetkey.wire.pending import PendingMessage, build_pending_message
from valetkey.wire.replies import BatchState
from valetkey.wire.terms import Kind

Item = TypeVar("Item")
Items = Iterable[ItemInput] | AsyncIterable[ItemInput]


class Requester(Protocol):
    """The tenant and the name under which a client sends its requests."""

    @property
    def tenant(self) -> str:
        """The tenant."""

    @property
    def requested_by(self) -> str:
        """The requester's name for the audit log."""


@dataclass(frozen=True)
class GrantRequest:
    """A request for grants: items of one kind in one bucket profile, with options of that kind.

    total is the number of items; None counts them. batch_id is the batch to continue; items are
    then those from chunk first_chunk on. manifest is the object key of the file that the service
    writes all item results to.
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

    def header(self, requester: Requester, new_batch_id: str) -> tuple[dict[str, Any], Items]:
        """Return the fields that all of its chunks share, and its items.

        new_batch_id is used unless the request has a batch_id. Items are read into a list if they
        have to be counted. Raises TypeError and ValueError as chunking.batch_header does, and
        TypeError as ensure_sized does.
        """
        items, total = self.items, self.total
        if total is None:
            items = ensure_sized(items, "total")
            total = len(items)
        header = batch_header(
            kind=self.kind,
            tenant=requester.tenant,
            requested_by=requester.requested_by,
            bucket=self.bucket,
            batch_id=new_batch_id if self.batch_id is None else self.batch_id,
            total=total,
            chunk_size=self.chunk_size,
            options=self.options,
            manifest=self.manifest,
        )
        return header, items


def ensure_sized(items: Iterable[Item] | AsyncIterable[Item], argument: str) -> Collection[Item]:
    """Return the items as a collection; an iterable without a length is read into a list.

    Raises TypeError for an async iterable: the caller must then pass the named argument.
    """
    if isinstance(items, AsyncIterable):
        raise TypeError(f"items from an async iterable need {argument}=")
    return items if isinstance(items, Collection) else list(items)


def header_and_messages(
    request: GrantRequest, requester: Requester, new_batch_id: str
) -> tuple[dict[str, Any], Iterator[PendingMessage]]:
    """Return a batch's header, and an iterator that builds its messages when they are read."""
    header, items = request.header(requester, new_batch_id)
    return header, chunk_messages(header, _require_sync(items), request.first_chunk)


def explain_message(
    request: GrantRequest, requester: Requester, new_batch_id: str
) -> PendingMessage:
    """Return the message that asks how the first chunk of a request would be decided.

    Raises ValueError if the request has no items.
    """
    header, items = request.header(requester, new_batch_id)
    messages = chunk_messages({**header, "ask": "explain"}, _require_sync(items))
    message = next(messages, None)
    if message is None:
        raise ValueError("there are no items to explain: pass at least one")
    return message


def _require_sync(items: Items) -> Iterable[ItemInput]:
    if isinstance(items, AsyncIterable):
        raise TypeError("items from an async iterable need an AsyncClient")
    return items


def usage_message(requester: Requester, task_id: str) -> PendingMessage:
    """Return the message that asks for the state of the tenant's quotas."""
    return build_pending_message(
        task_id, {"v": VERSION, "ask": "usage", "tenant": requester.tenant}
    )


def service_message(requester: Requester, task_id: str) -> PendingMessage:
    """Return the message that asks for the versions, kinds and limits of the service."""
    return build_pending_message(
        task_id, {"v": VERSION, "ask": "service", "tenant": requester.tenant}
    )


def cancel_message(
    requester: Requester,
    task_id: str,
    batch_id: str,
    reason: str | None,
    *,
    abort_uploads: bool = False,
) -> PendingMessage:
    """Return the message that cancels a batch: no further item is granted."""
    body: dict[str, Any] = {
        "v": VERSION,
        "ask": "cancel",
        "tenant": requester.tenant,
        "batch": batch_id,
        "requested_by": requester.requested_by,
    }
    optional = {"reason": reason, "abort_uploads": abort_uploads or None}
    body |= {name: value for name, value in optional.items() if value is not None}
    return build_pending_message(task_id, body)


def batch_state_message(requester: Requester, task_id: str, batch_id: str) -> PendingMessage:
    """Return the message that asks for the state of a batch."""
    body = {"v": VERSION, "ask": "batch", "tenant": requester.tenant, "batch": batch_id}
    return build_pending_message(task_id, body)


def reopen_messages(
    requester: Requester, task_id: str, batch_state: BatchState
) -> Iterator[PendingMessage]:
    """Yield the messages that ask for the results of a known batch, one for each chunk."""
    body = {"v": VERSION, "ask": "batch", "tenant": requester.tenant, "batch": batch_state.batch}
    chunk_count = -(-batch_state.total // batch_state.chunk_size)
    for number in range(chunk_count):
        yield build_pending_message(
            chunk_task_id(task_id, number), {**body, "chunk": number}, batch_state
        )


def status_message(
    requester: Requester,
    task_id: str,
    batch_id: str,
    items: Sequence[int] | None = None,
    *,
    probe: bool = False,
) -> PendingMessage:
    """Return the message that asks for the states of items of a batch, or the counts of all."""
    body: dict[str, Any] = {
        "v": VERSION,
        "ask": "status",
        "tenant": requester.tenant,
        "batch": batch_id,
        "probe": probe,
    }
    return build_pending_message(task_id, body if items is None else body | {"items": list(items)})


def single_header(batch_id: str) -> dict[str, Any]:
    """Return the header fields of a batch of one item, as far as its progress needs them."""
    return {"batch": batch_id, "total": 1, "chunk_size": 1}


def reissue_message(
    requester: Requester, batch_id: str, grant_id: str, options: Mapping[str, Any]
) -> PendingMessage:
    """Return the message that asks for a fresh grant of the object of an earlier one.

    Its task id depends on all that it asks. Otherwise a stored reply to another request under the
    same batch id would be taken for its own: it tells the new grant, but not the earlier one.
    """
    body: dict[str, Any] = {
        "v": VERSION,
        "ask": "reissue",
        "tenant": requester.tenant,
        "batch": batch_id,
        "of": grant_id,
        "requested_by": requester.requested_by,
    }
    body |= {name: value for name, value in options.items() if value is not None}
    text = json.dumps(body, sort_keys=True, default=repr)  # a wrong value is refused, not sent
    return build_pending_message(f"{batch_id}.{sha256(text.encode()).hexdigest()}", body)
