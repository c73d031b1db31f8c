"""The webhooks as JSON: `{"type", "timestamp", "data"}`, as Standard Webhooks 1.0.0 recommends.

They only grow: unknown fields are ignored, and values that are not known yet are kept as text.
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import AwareDatetime, Field, InstanceOf, PrivateAttr

from valetkey.wire.refusals import QuotaState, Refusal
from valetkey.wire.replies import ManifestState, Outcome
from valetkey.wire.terms import Kind, ReplyModel

UploadEventType = Literal["upload.stored", "upload.unused", "upload.mismatched"]
"""The types of webhooks that a request can ask for with `notify`."""

EventType = Literal[
    "grants.decided", "batch.completed",
    "upload.stored", "upload.unused", "upload.mismatched",
    "quota.warning", "endpoint.disabled", "endpoint.test",
]  # fmt: skip
"""The types of webhooks that an endpoint can choose."""

EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)

MAX_WEBHOOK_BYTES = 256 * 1024
"""The most bytes of a body. Larger outcomes are divided into pages."""

_IN_ORDER = Field(union_mode="left_to_right")
_Time = Annotated[AwareDatetime, Field(strict=False)]
DisabledReason = Literal["gone", "failing", "operator"]


class DecidedGrants(Outcome):
    """The content of `grants.decided`: the outcome of one chunk, or one page of it.

    tenant: the tenant's name.
    page, pages: the number of this page, from 1, and the number of pages of the chunk.
    issued, refused: the numbers of granted and refused items of the whole chunk.
    expires_at: the time at which the grants expire; absent if the batch was refused.
    thin: true if items is empty because the webhook must not have links, or the page would be too
    large. Claim the results with `client.batch(batch)`.
    """

    tenant: str
    page: int = 1
    pages: int = 1
    thin: bool = False
    expires_at: _Time | None = None


class CompletedBatch(ReplyModel):
    """The content of `batch.completed`: the totals of a batch that receives no further results.

    tenant, batch, kind, bucket, total: as in the batch's own messages.
    chunks: the number of decided chunks.
    issued, refused: the numbers of granted and refused items in these chunks.
    undecided: the number of items that were never decided, because the batch was cancelled or its
    messages did not arrive in time.
    cancelled: true if the batch was cancelled.
    requested_at: the time of the first decision.
    refusal: the reason, if the whole batch was refused.
    manifest: the manifest, if the batch has one. It is written, or has failed.
    """

    tenant: str
    batch: str
    kind: Annotated[Kind | str, _IN_ORDER]
    bucket: str
    total: int
    chunks: int
    issued: int
    refused: int
    undecided: int = 0
    cancelled: bool = False
    requested_at: _Time
    refusal: Annotated[Refusal, Field(strict=False)] | None = None
    manifest: ManifestState | None = None


class ReportedUpload(ReplyModel):
    """One grant of a webhook about uploads. An absent field is not known, or does not apply.

    id: the grant id.
    item: the number of the item in its batch, counted from 0.
    key: the object key of the grant. It ends in ${filename} if the client chooses the name.
    size: the size of the stored object in bytes.
    etag, version: the ETag and the version id that storage gave the object.
    stored_at: the time at which storage stored the object.
    late: true if the object was stored after the end of the grant, as by a PUT that began before.
    problem: for `upload.mismatched`; the limits of the grant that the object does not keep.
    """

    id: str
    item: int
    key: str
    size: int | None = None
    etag: str | None = None
    version: str | None = None
    stored_at: _Time | None = None
    late: bool = False
    problem: str | None = None


class ReportedUploads(ReplyModel):
    """The content of webhooks about uploads: grants of one chunk.

    chunk: the number of the chunk, counted from 0.
    uploads: the grants, in the order of their items.
    thin: true if uploads is empty because the webhook would be too large. Read the states with
    `client.status(batch)`.
    """

    tenant: str
    batch: str
    chunk: int
    uploads: list[ReportedUpload] = Field(default_factory=list)
    thin: bool = False


class WarnedQuota(ReplyModel):
    """The content of `quota.warning`: a quota whose usage has reached warn_at.

    tenant: the tenant's name.
    quota: the state of the quota after the request that reached it.
    batch: the batch of that request.
    """

    tenant: str
    quota: Annotated[QuotaState, Field(strict=False)]
    batch: str


class DisabledEndpoint(ReplyModel):
    """The content of `endpoint.disabled`: another endpoint that receives no webhooks any more.

    tenant, endpoint: the names of the tenant and of the disabled endpoint.
    reason: `gone` if it responded with 410, `failing` if all attempts failed for days, `operator`
    if an operator disabled it.
    failing_since: the time of the first attempt that failed since the last success.
    problem: how the last attempt failed.
    """

    tenant: str
    endpoint: str
    reason: Annotated[DisabledReason | str, _IN_ORDER]
    failing_since: _Time | None = None
    problem: str | None = None


class TestedEndpoint(ReplyModel):
    """The content of `endpoint.test`, which an operator sends to try an endpoint."""

    tenant: str
    endpoint: str


class _Envelope(ReplyModel):
    type: str
    timestamp: _Time
    _id: str = PrivateAttr("")  # a header, so no member of the JSON

    @property
    def id(self) -> str:
        """The `webhook-id`: the same for every attempt, so store it and ignore repeats."""
        return self._id


class GrantsDecided(_Envelope):
    """The items of a chunk are decided; timestamp is the time of the decision."""

    type: Literal["grants.decided"] = "grants.decided"
    data: DecidedGrants


class BatchCompleted(_Envelope):
    """A batch receives no further results; the last webhook with results or totals of it."""

    type: Literal["batch.completed"] = "batch.completed"
    data: CompletedBatch


class UploadStored(_Envelope):
    """Storage has objects as granted; timestamp is the time at which the service recorded this."""

    type: Literal["upload.stored"] = "upload.stored"
    data: ReportedUploads


class UploadMismatched(_Envelope):
    """Storage has objects of another size, type or checksum than granted."""

    type: Literal["upload.mismatched"] = "upload.mismatched"
    data: ReportedUploads


class UploadUnused(_Envelope):
    """Upload slots ended without an object."""

    type: Literal["upload.unused"] = "upload.unused"
    data: ReportedUploads


class QuotaWarning(_Envelope):
    """The usage of a quota has reached its soft limit; once for each quota and window."""

    type: Literal["quota.warning"] = "quota.warning"
    data: WarnedQuota


class EndpointDisabled(_Envelope):
    """Another endpoint of the tenant is disabled."""

    type: Literal["endpoint.disabled"] = "endpoint.disabled"
    data: DisabledEndpoint


class EndpointTest(_Envelope):
    """An operator tries this endpoint."""

    type: Literal["endpoint.test"] = "endpoint.test"
    data: TestedEndpoint


class UnknownEvent(_Envelope):
    """A webhook of a type that this release does not know, or `audit.checkpoint`."""

    data: InstanceOf[dict[str, Any]]


AnyEvent = (
    GrantsDecided | BatchCompleted | UploadStored | UploadMismatched | UploadUnused | QuotaWarning
    | EndpointDisabled | EndpointTest
)  # fmt: skip
"""Every webhook that an endpoint of a tenant receives."""


class RelayedEvent(ReplyModel):
    """A webhook as a producer that listens receives it: sealed, on the channel of its listener.

    Anything else on the channel is a sign of life.

    number: its number; later webhooks have higher ones, with few exceptions.
    id: the `webhook-id`. A webhook to several endpoints has the same id for each of them.
    type: its type.
    body: the body as an endpoint receives it.
    """

    number: int
    id: Annotated[str, Field(pattern=r"^[!-\-/-~]{1,255}$")]
    type: str
    body: str = Field(repr=False)
