"""The replies of the service, as JSON. Wire version 1.

The result of the task `valetkey.issue` is a `Reply`: a compact JWE if the message was signed.

Replies only grow. They are read tolerantly: unknown fields are ignored, and unknown values of open
lists are kept as text. Only `status`, which names the class of the reply, has to be known.
"""

import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from pydantic_core import to_jsonable_python

from valetkey.wire.refusals import Code, QuotaState, Refusal
from valetkey.wire.terms import Kind, ReplyModel

State = Literal[
    "open", "used", "unused", "late", "mismatched", "overwritten", "unknown", "refused",
    "undecided",
]  # fmt: skip

_IN_ORDER = Field(union_mode="left_to_right")  # text only if it is none of the known values

Method = Literal["GET", "HEAD", "POST", "PUT"]
LimitedBy = Literal["request", "policy", "provider", "credentials"]
Decision = Literal["issue", "refuse"]
ManifestProgress = Literal["pending", "written", "failed"]

# Not strict as a whole: pydantic validates a strict dataclass from JSON text only.
_GRANT_CONFIG = ConfigDict(extra="ignore", hide_input_in_errors=True)


class ServiceLimits(ReplyModel):
    """The limits of the service; a tenant's policy and the provider may set lower ones.

    max_batch_items, max_chunk_items: items in a batch, and in one message of it.
    default_chunk_items: chunk_size of a message that has none.
    max_interactive_items: items of a batch that is sent to the queue `valetkey`.
    max_frame_bytes: bytes of a Celery message with its envelope.
    max_message_bytes: bytes of a signed message before base64.
    max_message_age, max_clock_skew: seconds between a message's `iat` and the service's clock.
    max_expires_in: seconds of a grant's lifetime.
    max_object_bytes, max_multipart_bytes: bytes of an object in one request, and in parts.
    min_part_bytes, max_parts: bytes of each part except the last, and parts of an upload.
    """

    max_batch_items: int
    max_chunk_items: int
    default_chunk_items: int
    max_interactive_items: int
    max_frame_bytes: int
    max_message_bytes: int
    max_message_age: int
    max_clock_skew: int
    max_expires_in: int
    max_object_bytes: int
    max_multipart_bytes: int
    min_part_bytes: int
    max_parts: int


class ServiceInfo(ReplyModel):
    """The reply to a ServiceMessage: what the service reads and supports.

    tenant: the tenant that asked.
    release: the service's release.
    versions: the wire versions that it reads, as in the field `v` of a message.
    asks: the values of the field `ask`; a message without it has `grants`.
    kinds: the kinds of grant. The tenant's policy may allow fewer.
    """

    status: Literal["described"] = "described"
    tenant: str
    release: str
    versions: list[int]
    asks: list[str]
    kinds: list[str]
    limits: ServiceLimits

    def batch_refusal(
        self, version: int, kind: str, chunk_items: int, batch_items: int
    ) -> Refusal | None:
        """Return the refusal of a batch that this service cannot read, or None if it can."""
        limits = self.limits
        if version not in self.versions:
            text = f"the service does not read version {version} of the messages"
            versions = [str(number) for number in self.versions]
            return self._refuse(Code.VERSION_UNKNOWN, "v", text, versions)
        if kind not in self.kinds:
            text = f"the service has no grants of the kind {kind}"
            return self._refuse(Code.KIND_NOT_ALLOWED, "grant.kind", text, self.kinds)
        if chunk_items > limits.max_chunk_items:
            text = f"the service does not read messages of {chunk_items:,} items"
            return self._refuse(Code.CHUNK_INVALID, "chunk_size", text, limits.max_chunk_items)
        if batch_items > limits.max_batch_items:
            text = f"the service does not read batches of {batch_items:,} items"
            return self._refuse(Code.BATCH_TOO_LARGE, "total", text, limits.max_batch_items)
        return None

    def _refuse(self, code: Code, field: str, message: str, limit: int | Sequence[str]) -> Refusal:
        limit = limit if isinstance(limit, int) else list(limit)
        text = f"{message}: it is release {self.release}"
        return Refusal(code=code, field=field, message=text, limit=limit)


class UseState(ReplyModel):
    """The state of one item, and its newest use.

    item: the number of the item in its batch.
    state: `open` while the grant can be used and no use of it is known; `used` as granted, once or
    more; `unused` if an upload slot ended and storage has no object of it; `late` if the object was
    stored after the end of the grant; `mismatched` if the object has another size, type or checksum
    than granted; `overwritten` if another grant stored an object under the key later; `unknown` if
    the grant has ended and no use of it is known. `refused` for an item that was not granted, and
    `undecided` for one that is not decided yet.
    key: the object key; absent if the item is undecided.
    expires_at: the end of the grant.
    uses: the number of known uses.
    size, etag, version, checksum, content_type: those of the newest object that the grant stored,
    as far as they are known.
    stored_at: the time at which that object was stored, as storage reports it.
    problem: for `mismatched`, the terms of the grant that the object breaks: its size, type or
    checksum.
    """

    item: int
    state: Annotated[State | str, _IN_ORDER]
    key: str | None = None
    expires_at: Annotated[datetime, Field(strict=False)] | None = None
    uses: int = 0
    size: int | None = None
    etag: str | None = None
    version: str | None = None
    checksum: str | None = None
    content_type: str | None = None
    stored_at: Annotated[datetime, Field(strict=False)] | None = None
    problem: str | None = None


class UseStates(ReplyModel):
    """The reply to a StatusMessage: the known states of the grants of a batch.

    batch, kind, bucket, total: as in the batch's own messages.
    items: the states of the items of the message, in its order.
    counts: for a message without items; the number of items by state, of those that there are.
    """

    status: Literal["states"] = "states"
    batch: str
    kind: Annotated[Kind | str, _IN_ORDER]
    bucket: str
    total: int = Field(ge=1)
    items: list[UseState] = Field(default_factory=list)
    counts: dict[str, int] = Field(default_factory=dict)

    @property
    def state(self) -> str | None:
        """The state of the grant, if the message was about a single one."""
        return self.items[0].state if len(self.items) == 1 else None


class MultipartInfo(ReplyModel):
    """A multipart upload that the service has created in storage.

    upload_id: the id that storage gave the upload.
    part_size: the size of each part in bytes; the last part has the remaining bytes.
    part_count: the number of parts.
    abort_url: a presigned URL; send a DELETE to it to abort the upload.

    The grant's own method and url complete the upload.
    """

    upload_id: str = Field(repr=False)
    part_size: int
    part_count: int
    abort_url: str = Field(repr=False)


# A dataclass, not a model: Python's garbage collector then tracks one object per grant instead of
# three. A large process that holds ten thousand grants reads one in a fifth of the time.
@dataclass(frozen=True, slots=True, kw_only=True, config=_GRANT_CONFIG)
class Grant:
    """One permission: an HTTP request that storage accepts until expires_at.

    Treat url, fields and headers as a bearer secret until expires_at. Send method to url with
    exactly these headers. If fields is not empty, the request is a form: POST the fields as
    multipart/form-data, with the file as the last part.

    id: the batch id, a dot and the item's number in the batch.
    key: the object key.
    method, url: the request to send.
    fields: the fields of a form; empty for any other grant.
    headers: the headers of the request, which are part of its signature.
    expires_at: the end of the grant, with a time zone.
    limited_by: the source of expires_at: the request's expires_in, the tenant's policy, the
    provider's maximum or the lifetime of the credentials that signed the grant. For parts, the end
    of their upload, after which storage refuses them, counts as the provider's maximum.
    part: for parts, the part number.
    multipart: for a multipart, the upload that was created.
    ref: the producer's own reference of the item, if it has one.
    """

    id: str
    key: str
    method: Annotated[Method | str, _IN_ORDER]
    url: str = Field(repr=False)
    fields: dict[str, str] = Field(default_factory=dict, repr=False)
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    expires_at: datetime
    limited_by: Annotated[LimitedBy | str, _IN_ORDER]
    part: Annotated[int, Field(strict=True)] | None = None
    multipart: MultipartInfo | None = None
    ref: str | None = None

    @property
    def seconds_left(self) -> float:
        """The seconds until expires_at by this machine's clock; negative afterwards."""
        return (self.expires_at - datetime.now(UTC)).total_seconds()

    @property
    def is_expired(self) -> bool:
        """True once expires_at has passed, by this machine's clock."""
        return self.seconds_left <= 0

    def to_dict(self, *, include_url: bool = False) -> dict[str, Any]:
        """Return the grant as JSON values, without what is not set.

        Without include_url, it also lacks what gives access: url, fields and headers, and the
        upload_id and abort_url of multipart.
        """
        values: dict[str, Any] = to_jsonable_python(self, exclude_none=True)
        if not include_url:
            values = _without(values, _GRANT_SECRETS)
            if self.multipart is not None:
                values["multipart"] = _without(values["multipart"], _UPLOAD_SECRETS)
        return {name: value for name, value in values.items() if value != {}}

    def to_json(self, *, include_url: bool = False) -> str:
        """Return to_dict() as JSON text."""
        return json.dumps(self.to_dict(include_url=include_url))


_GRANT_SECRETS = frozenset({"url", "fields", "headers"})
_UPLOAD_SECRETS = frozenset({"upload_id", "abort_url"})


def _without(values: Mapping[str, Any], names: AbstractSet[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


ItemResult = Grant | Refusal

# Pydantic's default ("smart") mode validates both sides of the union and takes twice as long.
ItemAnswer = Annotated[
    Grant | Annotated[Refusal, Field(strict=False)], Field(union_mode="left_to_right")
]


class Outcome(ReplyModel):
    """The reply to one chunk: a result for each item, or one refusal of the whole batch.

    batch, chunk: the ids of the message. batch is empty if the message has no readable one.
    status: `issued` if the items were decided one by one; `refused` if the batch was refused.
    refusal: the reason, if status is `refused`.
    items: a Grant or a Refusal for each item, in the order of the request. Empty for a batch with a
    manifest.
    issued, refused: for a batch with a manifest; the numbers of granted and refused items in this
    chunk.
    quotas: the tenant's quotas after this chunk.
    """

    batch: str
    chunk: int
    status: Literal["issued", "refused"]
    refusal: Annotated[Refusal, Field(strict=False)] | None = None
    items: list[ItemAnswer] = Field(default_factory=list)
    issued: int | None = None
    refused: int | None = None
    quotas: list[Annotated[QuotaState, Field(strict=False)]] = Field(default_factory=list)


class BundleReply(ReplyModel):
    """The reply to a BundleMessage: the Outcomes of its messages, in their order.

    replies: an Outcome for each message. It lacks those of messages that the service could not
    decide: send each of them again, alone.
    """

    status: Literal["bundled"] = "bundled"
    replies: list[Outcome]


class Usage(ReplyModel):
    """The reply to a UsageMessage: the current state of the tenant's quotas."""

    status: Literal["reported"] = "reported"
    tenant: str
    quotas: list[Annotated[QuotaState, Field(strict=False)]]


class Cancelled(ReplyModel):
    """The reply to a CancelMessage: the numbers of items granted before it and of items released.

    issued: the number of items that were granted before the cancellation.
    released: the number of items that will not be granted; their reserved quota is free again.
    aborting: if the message has abort_uploads, the number of unfinished multipart uploads that are
    now aborted. Their bytes are given back to the quotas once it is certain that storage has none.
    """

    status: Literal["cancelled"] = "cancelled"
    batch: str
    issued: int
    released: int
    aborting: int | None = None


class RuleVerdict(ReplyModel):
    """The verdict of one rule on a message.

    rule: the rule's name.
    found: the value that the rule examined, as text.
    refusal: the refusal that the rule would return; None if the rule accepts the message.
    """

    rule: str
    found: str
    refusal: Annotated[Refusal, Field(strict=False)] | None = None


class Explanation(ReplyModel):
    """The reply to a message with ask `explain`. Nothing was charged or signed.

    decision: `refuse` if any verdict has a refusal, otherwise `issue`.
    rules: the verdicts of all rules that apply, in the order in which the service applies them.
    """

    status: Literal["explained"] = "explained"
    decision: Annotated[Decision | str, _IN_ORDER]
    rules: list[RuleVerdict]


class ManifestState(ReplyModel):
    """The progress of a batch's manifest.

    key: the object key of the manifest.
    state: `pending` until it is stored, then `written`; `failed` if the service gave up.
    issued, refused: the numbers of granted and refused items in the file.
    bytes, sha256: the size and the SHA-256 digest (in hex) of the stored, gzipped file.
    problem: the reason why it is not written. The service retries while state is `pending`.
    """

    key: str
    state: Annotated[ManifestProgress | str, _IN_ORDER]
    issued: int = 0
    refused: int = 0
    bytes: int | None = None
    sha256: str | None = None
    problem: str | None = None


class BatchState(ReplyModel):
    """The progress of a batch: the reply to a BatchMessage without chunk.

    batch, kind, bucket, total, chunk_size: as in the batch's own messages.
    decided: the number of chunks that the service has decided.
    issued, refused: the numbers of granted and refused items in these chunks.
    cancelled: true once the batch is cancelled.
    expires_in: the lifetime in seconds that was requested for its grants.
    refusal: the refusal that undecided chunks will receive, if it is already certain.
    manifest: the progress of the manifest, if the batch has one.
    """

    status: Literal["found"] = "found"
    batch: str
    kind: Annotated[Kind | str, _IN_ORDER]
    bucket: str
    total: int = Field(ge=1)
    chunk_size: int = Field(ge=1)
    decided: int
    issued: int
    refused: int
    cancelled: bool = False
    expires_in: int | None = None
    refusal: Annotated[Refusal, Field(strict=False)] | None = None
    manifest: ManifestState | None = None


class MissedEvent(ReplyModel):
    """A webhook that was relayed to a listener.

    number: its number; later webhooks have higher ones, with few exceptions.
    type: its type.
    batch: the batch id, if it is about a batch.
    """

    number: int
    type: str
    batch: str | None = None


class Listening(ReplyModel):
    """The reply to a ListenMessage: the tenant's webhooks are relayed to the listener.

    listener: as in the message.
    expires_in: the seconds until the service stops to relay, unless the producer asks again.
    cursor: the number of the last webhook that was relayed, or was not because it is older.
    missed: if the message has `after`, the webhooks that were relayed since, at most the first 50;
    the producer knows which of them it has received. They are not sent again.
    missed_count: the number of these webhooks, and those that are not named.
    """

    status: Literal["listening"] = "listening"
    listener: str
    expires_in: int
    cursor: int
    missed: list[MissedEvent] = Field(default_factory=list)
    missed_count: int = 0


Reply = (
    Outcome | BundleReply | Usage | Cancelled | BatchState | Explanation | ServiceInfo | UseStates
    | Listening
)  # fmt: skip
