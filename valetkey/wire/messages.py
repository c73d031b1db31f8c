"""The wire: what a producer sends and what it gets back, as JSON. Version 1.

Nothing here reaches Celery, Redis or a database: any process can read and write the messages.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from valetkey.wire.refusals import QuotaState, Refusal
from valetkey.wire.states import BatchState
from valetkey.wire.terms import (
    MAX_MULTIPART_BYTES,
    MAX_PARTS,
    AnyTerms,
    Checksum,
    Name,
    Text,
    WireModel,
)

VERSION = 1
ISSUE_TASK = "valetkey.issue"
INTERACTIVE_QUEUE = "valetkey"
BULK_QUEUE = "valetkey.bulk"
MAX_INTERACTIVE_ITEMS = 20  # items of a batch that somebody may be waiting for: the others are bulk
MAX_CHUNK_ITEMS = 1_000
DEFAULT_CHUNK_ITEMS = 600
MAX_BATCH_ITEMS = 1_000_000

BatchId = Annotated[
    str, Field(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
]


class Item(WireModel):
    """One object of a batch, and what only it has.

    filename goes before the batch's own; version_id is of a download; size in bytes is of a put or
    multipart; checksum is of what will be stored; part is a number of a multipart upload's parts.
    """

    key: str
    filename: str | None = None
    version_id: str | None = None
    size: Annotated[int, Field(ge=0, le=MAX_MULTIPART_BYTES)] | None = None
    checksum: Checksum | None = None
    part: Annotated[int, Field(ge=1, le=MAX_PARTS)] | None = None


class BatchHeader(WireModel):
    """What all chunks of a batch have in common, and say alike.

    manifest is the key of an object in the same bucket profile: the service writes all answers
    there, once all are decided, and the outcomes then only count them.
    """

    v: Literal[1] = 1
    tenant: Name
    batch: BatchId
    requested_by: Text
    reason: Text | None = None
    grant: AnyTerms
    total: Annotated[int, Field(ge=1, le=MAX_BATCH_ITEMS)]
    chunk_size: Annotated[int, Field(ge=1, le=MAX_CHUNK_ITEMS)] = DEFAULT_CHUNK_ITEMS
    callback: Name | None = None
    deadline: Annotated[AwareDatetime, Field(strict=False)] | None = None
    manifest: str | None = None


class ChunkMessage(BatchHeader):
    """One chunk of a batch: the header, which chunk it is, and its items.

    To ask to explain has it decided on, rule by rule, and neither charged nor signed.
    """

    ask: Literal["grants", "explain"] = "grants"
    chunk: Annotated[int, Field(ge=0)] = 0
    items: Annotated[list[Item], Field(min_length=1, max_length=MAX_CHUNK_ITEMS)]

    @model_validator(mode="after")
    def _holds_what_its_header_says(self) -> Self:
        expected = min(self.chunk_size, self.total - self.chunk * self.chunk_size)
        if len(self.items) != expected:
            raise ValueError("chunk_invalid")
        return self

    @property
    def first_item(self) -> int:
        """The batch-wide number of this chunk's first item."""
        return self.chunk * self.chunk_size

    def header(self) -> dict[str, Any]:
        """What must be the same in every chunk, as JSON values."""
        return self.model_dump(mode="json", exclude={"ask", "chunk", "items"})


class UsageMessage(WireModel):
    """Ask how the tenant's quotas stand."""

    v: Literal[1] = 1
    ask: Literal["usage"]
    tenant: Name


class CancelMessage(WireModel):
    """Ask to grant nothing more of a batch, and to release what is reserved for the rest of it."""

    v: Literal[1] = 1
    ask: Literal["cancel"]
    tenant: Name
    batch: BatchId
    requested_by: Text
    reason: Text | None = None


class BatchMessage(WireModel):
    """Ask how far a batch has come, whoever of the tenant asked for it; or a chunk's outcome again.

    Neither charges anything.
    """

    v: Literal[1] = 1
    ask: Literal["batch"]
    tenant: Name
    batch: BatchId
    chunk: Annotated[int, Field(ge=0, le=MAX_BATCH_ITEMS - 1)] | None = None


AnyMessage = ChunkMessage | UsageMessage | CancelMessage | BatchMessage


class MultipartInfo(WireModel):
    """A multipart upload that storage knows: cut the file into part_count parts of part_size bytes.

    The last part is the rest. Completing is the grant's own POST; abort_url is a DELETE.
    """

    upload_id: str = Field(repr=False)
    part_size: int
    part_count: int
    abort_url: str = Field(repr=False)


# Strict only where that says something: a strict dataclass is read from JSON and nothing else.
_OF_GRANTS = ConfigDict(extra="forbid", hide_input_in_errors=True)


# Not a model: of a grant Python's garbage collector then sees one object instead of three, and a
# large process that keeps ten thousand of them waits a fifth as long to read one.
@dataclass(frozen=True, slots=True, kw_only=True, config=_OF_GRANTS)
class Grant:
    """One permission. url, fields and headers together are a bearer secret until expires_at.

    Send method to url with exactly these headers. Where there are fields, it is a form: POST them
    as multipart/form-data, and the file after them.
    """

    id: str
    key: str
    method: Literal["GET", "HEAD", "POST", "PUT"]
    url: str = Field(repr=False)
    fields: dict[str, str] = Field(default_factory=dict, repr=False)
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    expires_at: datetime
    limited_by: Literal["request", "policy", "provider", "credentials"]
    part: Annotated[int, Field(strict=True)] | None = None
    multipart: MultipartInfo | None = None


# Left to right: to weigh both sides of the union, as is usual, takes twice as long.
ItemAnswer = Annotated[
    Grant | Annotated[Refusal, Field(strict=False)], Field(union_mode="left_to_right")
]


class Outcome(WireModel):
    """The answer to one chunk: its items in the order asked, or the refusal of the whole batch.

    quotas are the tenant's as they stand after it. Of a batch with a manifest there are no items,
    but how many of them were issued and refused.
    """

    batch: str
    chunk: int
    status: Literal["issued", "refused"]
    refusal: Annotated[Refusal, Field(strict=False)] | None = None
    items: list[ItemAnswer] = Field(default_factory=list)
    issued: int | None = None
    refused: int | None = None
    quotas: list[Annotated[QuotaState, Field(strict=False)]] = Field(default_factory=list)


class Usage(WireModel):
    """How the tenant's quotas stand."""

    status: Literal["told"] = "told"
    tenant: str
    quotas: list[Annotated[QuotaState, Field(strict=False)]]


class Cancelled(WireModel):
    """What became of a batch that was cancelled: items granted before, and items released."""

    status: Literal["cancelled"] = "cancelled"
    batch: str
    issued: int
    released: int


class Verdict(WireModel):
    """What one rule says of a message; found is what it saw, refusal why it would refuse."""

    rule: str
    found: str
    refusal: Annotated[Refusal, Field(strict=False)] | None = None


class Explanation(WireModel):
    """What would be decided on a message, and by which rules; nothing was charged or signed."""

    status: Literal["explained"] = "explained"
    decision: Literal["issue", "refuse"]
    rules: list[Verdict]


Reply = Outcome | Usage | Cancelled | BatchState | Explanation


def task_id(batch: str, chunk: int) -> str:
    """The Celery task id of a chunk: derived, so that any process can find the answer again."""
    return f"{batch}.{chunk}"


def grant_id(batch: str, item: int) -> str:
    """The id of a grant: its batch and its number there, counted from 0."""
    return f"{batch}.{item}"
