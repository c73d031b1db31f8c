"""The messages between producers and the service, as JSON. Wire version 1.

A producer sends an `AnyMessage` as the only argument of the task `valetkey.issue`: signed as a
compact JWS, or plain if the tenant trusts the queue. The result of the task is a `Reply`, as a
compact JWE if the message was signed. This module needs neither Celery, Redis nor a database.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from valetkey.wire.events import UploadEventType
from valetkey.wire.grant_ids import UUID7
from valetkey.wire.grant_ids import grant_id as grant_id  # noqa: PLC0414 - a part of the wire
from valetkey.wire.terms import (
    MAX_EXPIRES_IN,
    MAX_MULTIPART_BYTES,
    MAX_OBJECT_BYTES,
    MAX_PARTS,
    MIN_PART_BYTES,
    AnyTerms,
    Checksum,
    Name,
    Seconds,
    Text,
    WireModel,
)

VERSION = 1
MAX_INTERACTIVE_ITEMS = 20  # items in a batch; larger batches go to BULK_QUEUE
MAX_CHUNK_ITEMS = 1_000  # items in one message
DEFAULT_CHUNK_ITEMS = 600  # items in one message
MAX_BATCH_ITEMS = 1_000_000  # items in all chunks of a batch together
MAX_STATUS_ITEMS = 1_000  # whose states one message asks for
MAX_PROBED_ITEMS = 50  # whose objects one message lets the service ask for
MAX_LISTENERS = 5  # of one tenant at a time
MAX_MISSED_EVENTS = 50  # that one reply names
MAX_BUNDLE_MESSAGES = 64  # messages in one bundle
MAX_BUNDLED_ITEMS = 16  # items in each of them
BUNDLE_TASK_PREFIX = "bundle."  # of the task ids of bundles, which name no batch
BUNDLED_KINDS = ("download", "upload", "put")  # the others wait for storage, and others with them

WIRE_LIMITS: Mapping[str, int] = {
    "max_batch_items": MAX_BATCH_ITEMS,
    "max_chunk_items": MAX_CHUNK_ITEMS,
    "default_chunk_items": DEFAULT_CHUNK_ITEMS,
    "max_interactive_items": MAX_INTERACTIVE_ITEMS,
    "max_expires_in": MAX_EXPIRES_IN,
    "max_object_bytes": MAX_OBJECT_BYTES,
    "max_multipart_bytes": MAX_MULTIPART_BYTES,
    "min_part_bytes": MIN_PART_BYTES,
    "max_parts": MAX_PARTS,
}
"""The ServiceLimits that every service of this wire version has."""

Ask = Literal[
    "grants", "explain", "usage", "cancel", "batch", "service", "status", "reissue", "bundle",
    "listen",
]  # fmt: skip
"""The values of the field `ask`, which distinguishes the messages."""

BatchId = Annotated[str, Field(pattern=f"^{UUID7}$")]
"""A UUIDv7 in lower case (RFC 9562, section 5.7), chosen by the producer: the idempotency key."""

GrantId = Annotated[str, Field(pattern=rf"^{UUID7}\.(0|[1-9][0-9]{{0,5}})$")]
"""The id of a grant: its batch id, a dot and the item's number in the batch."""

ItemNumber = Annotated[int, Field(ge=0, le=MAX_BATCH_ITEMS - 1)]
"""The number of an item in its batch, counted from 0."""


ITEM_TEXTS = ("recipient", "reason", "ref")
"""The fields of an item that are only recorded in the audit log: they change no grant."""


class Item(WireModel):
    """One object of a batch, with the fields that apply to this object alone.

    key: the object key. Every item has one.
    filename: for a download; overrides the filename of the grant terms.
    version_id: for a download; the object version to read.
    size: the object's exact size in bytes, up to 5 TiB. Required for a put or multipart; optional
    for an upload, to check it against min_size and max_size.
    checksum: for an upload or put; the checksum of the object to store.
    part: for parts, where it is required; the part number, from 1 to 10,000.
    recipient, reason: text for the audit log, at most 200 characters each; they take precedence
    over those of the batch.
    ref: a reference of the producer's own, at most 200 characters; the item's result has it, too.
    """

    key: str
    filename: str | None = None
    version_id: str | None = None
    size: Annotated[int, Field(ge=0, le=MAX_MULTIPART_BYTES)] | None = None
    checksum: Checksum | None = None
    part: Annotated[int, Field(ge=1, le=MAX_PARTS)] | None = None
    recipient: Text | None = None
    reason: Text | None = None
    ref: Text | None = None


class _Message(WireModel):
    v: Literal[1] = 1
    tenant: Name


class BatchHeader(_Message):
    """The fields that are identical in every chunk of a batch.

    tenant: the tenant that the producer acts for.
    batch: the batch id. To send the same batch again, use the same id; the service charges it once.
    requested_by, reason: text for the audit log, at most 200 characters each.
    recipient: the person or system that the grants are for, for the audit log, at most 200
    characters.
    grant: the kind of grant and its terms; they apply to every item.
    total: the number of items in the whole batch, at most 1,000,000.
    chunk_size: the number of items in each chunk, at most 1,000; the last chunk may have fewer.
    callback: the name of one of the tenant's webhook endpoints; it also receives the outcomes.
    notify: with callback; types of webhooks about the uploads that the endpoint also receives.
    deadline: an RFC 3339 date and time with a time zone; the service refuses the message after it.
    manifest: for a download, upload or put; an object key in the same bucket profile. Once every
    item is decided, the service writes all item results to this object, as gzipped JSON lines. The
    outcomes then only count items.
    """

    batch: BatchId
    requested_by: Text
    reason: Text | None = None
    recipient: Text | None = None
    grant: AnyTerms
    total: Annotated[int, Field(ge=1, le=MAX_BATCH_ITEMS)]
    chunk_size: Annotated[int, Field(ge=1, le=MAX_CHUNK_ITEMS)] = DEFAULT_CHUNK_ITEMS
    callback: Name | None = None
    notify: Annotated[list[UploadEventType], Field(min_length=1, max_length=3)] | None = None
    deadline: Annotated[AwareDatetime, Field(strict=False)] | None = None
    manifest: str | None = None


class ChunkMessage(BatchHeader):
    """A request for grants: one chunk of a batch, with the batch's header. Returns an Outcome.

    ask: `grants` to issue grants; `explain` to evaluate every rule without charging or signing
    anything. An explained message returns an Explanation.
    chunk: the number of this chunk, counted from 0.
    items: chunk_size items; the last chunk has the remainder of total.
    """

    ask: Literal["grants", "explain"] = "grants"
    chunk: Annotated[int, Field(ge=0)] = 0
    items: Annotated[list[Item], Field(min_length=1, max_length=MAX_CHUNK_ITEMS)]

    @model_validator(mode="after")
    def _check_item_count(self) -> Self:
        expected = min(self.chunk_size, self.total - self.chunk * self.chunk_size)
        if len(self.items) != expected:
            raise ValueError("chunk_invalid")
        return self

    @property
    def first_item(self) -> int:
        """The number of this chunk's first item, counted from 0 across the whole batch."""
        return self.chunk * self.chunk_size


class UsageMessage(_Message):
    """A request for the state of the tenant's quotas. Returns a Usage."""

    ask: Literal["usage"]


class CancelMessage(_Message):
    """A request to cancel a batch. Returns a Cancelled.

    The service issues no further grants of the batch and releases the quota that is reserved for
    its undecided items. Grants that were issued before stay valid.

    requested_by, reason: text for the audit log, at most 200 characters each.
    abort_uploads: if true, the service also aborts the multipart uploads that were granted and are
    still unfinished, and gives their bytes back to the quotas.
    """

    ask: Literal["cancel"]
    batch: BatchId
    requested_by: Text
    reason: Text | None = None
    abort_uploads: bool = False


class BatchMessage(_Message):
    """A request for the progress of a batch, or for the outcome of one of its chunks.

    Any producer of the tenant may send it, for any batch of the tenant. It charges nothing. Without
    chunk it returns a BatchState; with chunk, the Outcome of that chunk, signed again.

    chunk: the number of the chunk whose Outcome to return.
    """

    ask: Literal["batch"]
    batch: BatchId
    chunk: Annotated[int, Field(ge=0, le=MAX_BATCH_ITEMS - 1)] | None = None


class ServiceMessage(_Message):
    """A request for the versions, kinds and limits of the service. Returns a ServiceInfo."""

    ask: Literal["service"]


class StatusMessage(_Message):
    """A request for the states of the grants of a batch. Returns a UseStates.

    Any producer of the tenant may send it, for any batch of the tenant. It charges nothing.

    items: the numbers of the items whose states to return, at most 1,000. Without it, the states of
    the whole batch are counted.
    probe: if true, the service first asks storage for the objects of upload slots without a known
    use: of at most 50 of these items, or of a whole batch of at most 50. It does so once a
    second for each item at most, and not if storage is slow or asked too often already: the states
    are then those that the service knows.
    """

    ask: Literal["status"]
    batch: BatchId
    items: Annotated[list[ItemNumber], Field(min_length=1, max_length=MAX_STATUS_ITEMS)] | None = (
        None
    )
    probe: bool = False


class ReissueMessage(_Message):
    """A request for a fresh grant of the same object under the terms of an earlier one.

    The new grant is decided as any request: by the policy and the quotas of today, and charged as
    such. It is a batch of one item. The audit log records which grant it was issued again for.
    Returns an Outcome.

    batch: the batch id of the new grant. To send the same request again, use the same id; the
    service charges it once.
    of: the id of the earlier grant, of any kind but multipart and parts.
    requested_by, reason, recipient: as in a request for grants. Without reason or recipient, those
    of the earlier grant; it also keeps its ref.
    expires_in: the lifetime of the new grant in seconds; without it, that which was requested for
    the earlier one.
    """

    ask: Literal["reissue"]
    batch: BatchId
    of: GrantId
    requested_by: Text
    reason: Text | None = None
    recipient: Text | None = None
    expires_in: Seconds | None = None


class BundleMessage(_Message):
    """Several requests for grants, each decided as if it were sent alone. Returns a BundleReply.

    messages: at most 64 ChunkMessages of this tenant. Each has a whole batch of at most 16
    downloads, uploads or puts, and no manifest.
    """

    ask: Literal["bundle"]
    messages: Annotated[list[Any], Field(min_length=1, max_length=MAX_BUNDLE_MESSAGES)]


class ListenMessage(_Message):
    """A request to relay the tenant's webhooks to this producer for a while. Returns a Listening.

    It has to be signed: each webhook is sealed to the key that signed it, as a reply, and published
    on the channel `celery-task-meta-LISTENER`, with its number, id, type and body. Nothing is
    stored there. To keep on listening, send the message again in time.

    listener: a UUIDv7 that the producer chooses; subscribe to its channel before you ask. A tenant
    has at most 5 listeners at a time.
    after: the cursor of the last reply, or the number of a later event that was received. The reply
    then names the events that were relayed since.
    """

    ask: Literal["listen"]
    listener: BatchId
    after: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None


def unbundled_field(body: Mapping[str, Any]) -> str | None:
    """Return the field that requires a valid message to be sent alone, or None."""
    if body.get("ask", "grants") != "grants" or "items" not in body:
        return "ask"
    if not len(body["items"]) == body["total"] <= MAX_BUNDLED_ITEMS:
        return "items"
    if body.get("manifest") is not None:
        return "manifest"
    return None if body["grant"]["kind"] in BUNDLED_KINDS else "grant.kind"


AnyMessage = (
    ChunkMessage
    | UsageMessage
    | CancelMessage
    | BatchMessage
    | ServiceMessage
    | StatusMessage
    | ReissueMessage
    | BundleMessage
    | ListenMessage
)


def task_id(batch_id: str, chunk: int) -> str:
    """Return the Celery task id of a chunk, by which any process can find the result again."""
    return f"{batch_id}.{chunk}"
