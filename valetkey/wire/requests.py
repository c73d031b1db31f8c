"""Builds messages from the arguments of a client's methods. Pure."""

import json
from collections.abc import AsyncIterable, Callable, Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import Any, Protocol, TypeVar
from uuid import UUID

from valetkey.wire.chunking import ItemInput, chunk_messages, json_value
from valetkey.wire.item_checks import checked_items, item_size
from valetkey.wire.messages import (
    DEFAULT_CHUNK_ITEMS,
    MAX_CHUNK_ITEMS,
    VERSION,
    Ask,
    BatchHeader,
)
from valetkey.wire.messages import task_id as chunk_task_id
from valetkey.wire.options import BatchOptions, ObjectOptions, ReissueOptions
from valetkey.wire.pending import PendingMessage, build_pending_message
from valetkey.wire.replies import BatchState
from valetkey.wire.terms import TERMS_BY_KIND, Kind, StorageTerms

# The options that are not terms of the grants.
_HEADER_OPTIONS = [n for n in BatchHeader.model_fields if n in ObjectOptions.__annotations__]

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
    batch_id: str | UUID | None = None
    first_chunk: int = 0
    manifest: str | None = None
    progress: Callable[[int, int], object] | None = None

    @classmethod
    def of_many(
        cls, kind: Kind, bucket: str, items: Items, options: Mapping[str, Any]
    ) -> "GrantRequest":
        """Return a request whose options are those of the kind and BatchOptions.

        The default max_size of puts is the size of the largest item. Raises TypeError as
        checked_items and ensure_sized do.
        """
        items = checked_items(kind, items)
        if kind == "put" and "max_size" not in options:
            items = ensure_sized(items, "max_size")
            sizes = (item_size(item) or 1 for item in items)
            options = {**options, "max_size": max(sizes, default=1)}
        return cls.of_options(kind, bucket, items, options, BatchOptions.__annotations__)

    @classmethod
    def of_options(
        cls,
        kind: Kind,
        bucket: str,
        items: Items,
        options: Mapping[str, Any],
        batch_options: Iterable[str] = (),
    ) -> "GrantRequest":
        """Return a request whose options are those of the kind and these of a batch."""
        names = {"batch_id", *batch_options}
        of_kind = {name: value for name, value in options.items() if name not in names}
        of_batch = {name: options[name] for name in names & options.keys()}
        return cls(kind, bucket, items, of_kind, **of_batch)

    def header(self, requester: Requester, new_batch_id: str) -> tuple[dict[str, Any], Items]:
        """Return the fields that all of its chunks share, as JSON values, and its items.

        new_batch_id is used unless the request has a batch_id. Items are read into a list if they
        have to be counted. Raises TypeError for an option that the kind does not have, or as
        ensure_sized does, and ValueError for a chunk_size out of range or a date without a time
        zone.
        """
        items, total = self.items, self.total
        if total is None:
            items = ensure_sized(items, "total")
            total = len(items)
        _reject_unknown(self.kind, self.options, option_names(self.kind))
        size = self.chunk_size
        if not 1 <= size <= MAX_CHUNK_ITEMS:
            raise ValueError(f"chunk_size must be from 1 to {MAX_CHUNK_ITEMS}, not {size}")
        values = {name: value for name, value in self.options.items() if value is not None}
        terms = {name: json_value(v) for name, v in values.items() if name not in _HEADER_OPTIONS}
        header = {
            "v": VERSION,
            "tenant": requester.tenant,
            "batch": new_batch_id if self.batch_id is None else str(self.batch_id),
            "requested_by": requester.requested_by,
            "grant": {"kind": self.kind, "bucket": self.bucket, "expires_in": 3600} | terms,
            "total": total,
            "chunk_size": size,
        } | {name: _header_value(values[name]) for name in _HEADER_OPTIONS if name in values}
        return header if self.manifest is None else header | {"manifest": self.manifest}, items


def _reject_unknown(subject: str, options: Mapping[str, Any], known: AbstractSet[str]) -> None:
    unknown = sorted(options.keys() - known)
    if unknown:
        raise TypeError(f"{subject} has no option {unknown[0]!r}")


def option_names(kind: Kind) -> set[str]:
    """Return the names of the options that a request of this kind can have."""
    terms = TERMS_BY_KIND[kind]
    others = {"kind", "bucket"} if issubclass(terms, StorageTerms) else {"kind", "bucket", "notify"}
    return {*terms.model_fields, *_HEADER_OPTIONS} - others


def _header_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return list(value) if isinstance(value, tuple | set | frozenset) else value


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
    _require_sync(request.items)
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


def build_message(
    requester: Requester, task_id: str, ask: Ask, state: BatchState | None = None, **fields: Any
) -> PendingMessage:
    """Return a message that is no request for grants. Fields that are None are not sent.

    state is set if it asks for a chunk of a reopened batch.
    """
    body: dict[str, Any] = {"v": VERSION, "ask": ask, "tenant": requester.tenant}
    body |= {name: value for name, value in fields.items() if value is not None}
    return build_pending_message(task_id, body, state)


def reopen_messages(
    requester: Requester, task_id: str, state: BatchState
) -> Iterator[PendingMessage]:
    """Yield the messages that ask for the results of a known batch, one for each chunk."""
    for number in range(-(-state.total // state.chunk_size)):
        chunk_id = chunk_task_id(task_id, number)
        yield build_message(requester, chunk_id, "batch", state, batch=state.batch, chunk=number)


def reissue_message(
    requester: Requester, batch_id: str, grant_id: str, options: Mapping[str, Any]
) -> PendingMessage:
    """Return the message that asks for a fresh grant of the object of an earlier one.

    Its task id depends on all that it asks. Otherwise a stored reply to another request under the
    same batch id would be taken for its own: it names the new grant, but not the earlier one.
    """
    _reject_unknown("reissue", options, ReissueOptions.__annotations__.keys())
    fields: dict[str, Any] = {"requested_by": requester.requested_by}
    fields |= {name: value for name, value in options.items() if value is not None}
    message = build_message(requester, "", "reissue", batch=batch_id, of=grant_id, **fields)
    # A wrong value is refused, not sent.
    text = json.dumps(message.body, sort_keys=True, default=repr)
    return replace(message, task_id=f"{batch_id}.{sha256(text.encode()).hexdigest()}")
