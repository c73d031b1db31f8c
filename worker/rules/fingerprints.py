"""Fingerprints of requests, and the history of a batch with which they are compared.

A batch stays open while workers are updated, so workers of two releases compare fingerprints of the
same batch. A fingerprint covers what the producer said: a field that a later release adds changes
none of them until a producer uses it.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from hashlib import sha256
from typing import Any, NamedTuple

from pydantic import BaseModel, TypeAdapter

from valetkey.wire.messages import ChunkMessage, Item
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import AnyTerms

_NOT_IN_HEADER = frozenset({"ask", "chunk", "items", "grant"})
_ITEMS = TypeAdapter(list[Item])

_CHANGED_DEFAULTS: Mapping[str, Any] = {}
"""The first default of each field whose default has changed since, by the field's name.

It is part of fingerprints in databases: never change an entry.
"""

# Never add a term. One of a later release is recorded only if it was said, because a worker of the
# release before cannot read it, and must be able to sign the batch again.
_ALWAYS_RECORDED = {
    *("kind", "min_expires_in", "method", "filename", "content_type", "inline", "cache_control"),
    *("content_language", "content_encoding", "expires", "check_owner", "acl", "metadata", "tags"),
    *("storage_class", "encryption", "min_size", "success_status", "success_redirect"),
    *("overwrite", "part_size"),
}


def fingerprint(text: str) -> bytes:
    """Return the SHA-256 of a text."""
    return sha256(text.encode()).digest()


def salted_fingerprint(salt: bytes, request_fingerprint: bytes) -> bytes:
    """Return what the log has of a fingerprint: without the salt, it confirms no guess."""
    return sha256(salt + request_fingerprint).digest()


def header_fingerprint(message: ChunkMessage) -> bytes:
    """Return the SHA-256 of the header that all chunks of a batch share."""
    header = _values(message, _said_fields(message) - _NOT_IN_HEADER)
    header["grant"] = _values(message.grant, {"kind"} | _said_fields(message.grant))
    return fingerprint(json.dumps(header, sort_keys=True))


def items_fingerprint(message: ChunkMessage) -> bytes:
    """Return the SHA-256 of the items of one chunk.

    A field is left out unless it was said with another value than its default.
    """
    try:
        text = _ITEMS.dump_json(message.items, exclude_none=True, exclude_defaults=True)
    except ValueError:  # a key with a lone surrogate, which Python's JSON accepts
        items = [
            item.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
            for item in message.items
        ]
        text = json.dumps(items, sort_keys=True).encode()
    return sha256(text).digest()


def recorded_terms(terms: AnyTerms) -> dict[str, Any]:
    """Return the terms as JSON values for the batch's row: complete, whatever defaults change."""
    values = _values(terms, _ALWAYS_RECORDED | _said_fields(terms))
    return {name: value for name, value in values.items() if value is not None}


def _values(model: BaseModel, names: set[str]) -> dict[str, Any]:
    """Return fields as JSON values, in which the objects contain only what was said."""
    values, fields = model.model_dump(mode="json", include=names), vars(model)
    return {name: _said_parts(fields[name], value) for name, value in values.items()}


def _said_parts(part: object, value: Any) -> Any:
    if isinstance(part, BaseModel):
        return _values(part, _said_fields(part))
    if isinstance(part, list):
        return [_said_parts(item, dumped) for item, dumped in zip(part, value, strict=True)]
    return value


def _said_fields(model: BaseModel) -> set[str]:
    """Return the fields that were said with another value than their first default.

    So a client that begins to say a default sends the same request as before.
    """
    defaults, values = _first_defaults(type(model)), vars(model)
    said = model.model_fields_set
    return {name for name in said if name not in defaults or values[name] != defaults[name]}


@cache
def _first_defaults(model: type[BaseModel]) -> Mapping[str, Any]:
    return {
        name: _CHANGED_DEFAULTS.get(name, field.get_default(call_default_factory=True))
        for name, field in model.model_fields.items()
        if not field.is_required()
    }


BATCH_CONFLICT = Refusal(
    code=Code.BATCH_CONFLICT,
    field="batch",
    message="this batch id, or this chunk of it, was used with other content: choose a new id",
)
BATCH_CLOSED = Refusal(
    code=Code.BATCH_CLOSED,
    field="batch",
    message=(
        "the batch was cancelled, or began longer ago than the shortest window of the tenant's"
        " quotas (or than a day): nothing more of it is issued"
    ),
)
BATCH_UNKNOWN = Refusal(
    code=Code.BATCH_UNKNOWN,
    field="batch",
    message="no message of such a batch of the tenant has reached the service",
)


class RecordedBatch(NamedTuple):
    """A committed batch: its header, its refusal if any, and the number of items not decided yet.

    remaining is the number of items without a decision, None once the batch is closed. request_salt
    is None once texts of the batch were erased.
    """

    batch_number: int
    kind: str
    bucket: str
    total: int
    chunk_size: int
    fingerprint: bytes
    refusal: Refusal | None
    decided_at: datetime
    remaining: int | None
    request_salt: bytes | None

    @property
    def chunk_count(self) -> int:
        """The number of chunks of the whole batch."""
        return -(-self.total // self.chunk_size)

    @property
    def later_refusal(self) -> Refusal | None:
        """The refusal of chunks that are not decided yet, or None if they can be issued."""
        return self.refusal or (BATCH_CLOSED if self.remaining is None else None)


class DecidedChunk(NamedTuple):
    """The decision on one chunk of the batch."""

    fingerprint: bytes
    decided_at: datetime
    refusal: Refusal | None


class BatchHistory(NamedTuple):
    """The committed batch of an id, and one committed chunk of it; None if there is none."""

    batch: RecordedBatch | None = None
    chunk: DecidedChunk | None = None
    is_cancelled: bool = False

    def conflicts_with(self, header: bytes, items: bytes) -> bool:
        """Return true if the batch id was used with another header, or the chunk with other items.

        Takes the fingerprints of a message. A batch whose texts were erased conflicts with any: it
        cannot be compared.
        """
        if self.batch is None:
            return False
        salt = self.batch.request_salt
        if salt is None or self.batch.fingerprint != salted_fingerprint(salt, header):
            return True
        chunk = self.chunk
        return chunk is not None and chunk.fingerprint != salted_fingerprint(salt, items)

    def refusal_of(self, message: ChunkMessage) -> Refusal | None:
        """Return the refusal that follows from the history alone, or None if there is none."""
        if self.batch is None:
            return BATCH_CLOSED if self.is_cancelled else None
        if self.conflicts_with(header_fingerprint(message), items_fingerprint(message)):
            return BATCH_CONFLICT
        return self.batch.later_refusal if self.chunk is None else self.chunk.refusal

    def is_final_for(self, message: ChunkMessage) -> bool:
        """Return true if the history alone decides the message: no item of it is decided anew."""
        return self.refusal_of(message) is not None or self.chunk is not None
