"""The types of the stories of batches and grants: values without links, signatures or tokens."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypedDict, final


class ItemCounts(TypedDict):
    """The numbers of a batch's items and chunks. awaited are those that have not arrived yet."""

    total: int
    issued: int
    refused: int
    awaited: int
    chunks: int
    first_at: datetime | None
    last_at: datetime | None


class CancellationStory(TypedDict):
    """A cancellation: by whom, and why."""

    at: datetime
    requested_by: str
    signed_by: str | None
    reason: str | None


class RevocationStory(TypedDict):
    """A revocation: by whom, and why. target is the option of `revoke`, and value its value."""

    at: datetime
    revoked_by: str
    reason: str | None
    target: str
    value: str


class ManifestStory(TypedDict):
    """The file of a batch's results."""

    object_key: str
    state: str
    attempts: int
    issued: int
    refused: int
    bytes: int | None
    problem: str | None
    created_at: datetime
    finished_at: datetime | None


class DeliveryStory(TypedDict):
    """A webhook of a chunk. status is that of the last HTTP response.

    event is None for the outcome, else the type of a webhook about uploads.
    """

    chunk_number: int
    endpoint: str
    state: str
    attempts: int
    status: int | None
    problem: str | None
    created_at: datetime
    finished_at: datetime | None
    next_attempt_at: datetime | None
    event: str | None


class ReissueStory(TypedDict):
    """A later signing of a grant. The access key is shortened."""

    at: datetime
    access_key: str | None


class UploadStory(TypedDict):
    """The multipart upload of a grant."""

    size: int
    part_size: int
    state: str
    expires_at: datetime


class QuotaStory(TypedDict, total=False):
    """The amounts that were charged by metric, and the beginnings of the windows.

    A grant has counts_as_live. A batch has the number of items that are still reserved.
    """

    charged: Mapping[str, int]
    windows: Mapping[str, datetime]
    counts_as_live: bool
    awaited_items: int


class UseValues(TypedDict):
    """The state of a grant, and the newest of number_of_uses uses. Refused items have no state."""

    state: str | None
    uses: list[dict[str, Any]]
    number_of_uses: int
    settlement: dict[str, Any] | None


class RequestStory(TypedDict):
    """The part that the stories of a batch and of a grant have in common.

    real_bucket is the bucket behind the profile when the batch was decided. quota is None if
    nothing was charged, or if a later release wrote terms that this one does not know.
    """

    tenant: str
    batch: str
    requested_by: str
    reason: str | None
    recipient: str | None
    reissue_of: str | None
    kind: str
    bucket: str
    real_bucket: str | None
    terms: Mapping[str, Any]
    callback: str | None
    notify: list[str] | None
    decided_at: datetime
    refusal: Mapping[str, Any] | None
    items: ItemCounts
    cancellation: CancellationStory | None
    revocations: list[RevocationStory]
    manifest: ManifestStory | None
    deliveries: list[DeliveryStory]
    quota: QuotaStory | None


@final
class BatchStory(RequestStory):
    """Everything that is known about a batch. states counts its grants by state."""

    grant: None
    states: Mapping[str, int]


@final
class GrantStory(RequestStory, UseValues):
    """Everything that is known about one item of a batch, granted or refused.

    decision is `issued` or the code of the refusal. detail has the fields of this item alone. The
    access key is shortened. leaf_number is the position of its chunk in the tenant's tree.
    """

    grant: str
    key: str
    detail: Mapping[str, Any] | None
    decision: str
    signed_by: str | None
    chunk: int
    expires_at: datetime | None
    expires_in: int | None
    limited_by: str | None
    is_alive: bool
    access_key: str | None
    reissues: list[ReissueStory]
    upload: UploadStory | None
    leaf_number: int | None
