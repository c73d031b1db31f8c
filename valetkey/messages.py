"""The wire: what a producer sends and what it gets back, as JSON. Version 1.

Nothing here reaches Celery, Redis or a database: any process can read and write the messages.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from valetkey.refusals import Refusal

VERSION = 1
TASK = "valetkey.issue"
QUEUE = "valetkey"
LONGEST_LIFE = 604_800  # seconds; AWS: sigv4-query-string-auth.html, X-Amz-Expires
LARGEST_POST = 5 * 1024**3  # bytes; AWS: one POST or PUT stores at most 5 GiB
LARGEST_CHUNK = 1_000
DEFAULT_CHUNK = 500
LARGEST_BATCH = 1_000_000

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
BatchId = Annotated[
    str, Field(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
]
Seconds = Annotated[int, Field(ge=1, le=LONGEST_LIFE)]
Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=2_048)]
Text = Annotated[Line, Field(min_length=1, max_length=200)]


class Wire(BaseModel):
    """Strict JSON: unknown fields, numbers as text and fractions for whole numbers are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class Terms(Wire):
    """What every kind of grant has in common.

    expires_in is in seconds. A life over the policy is refused, or cut to it where min_expires_in
    says how short is still useful.
    """

    bucket: Name
    expires_in: Seconds
    min_expires_in: Seconds | None = None


class Download(Terms):
    """A presigned GET, answered by storage as an attachment with this name and content type."""

    kind: Literal["download"] = "download"
    filename: Line | None = None
    content_type: Line | None = None


class Upload(Terms):
    """A presigned POST form for one exact key, its size in bytes between min_size and max_size."""

    kind: Literal["upload"] = "upload"
    max_size: Annotated[int, Field(ge=1, le=LARGEST_POST)]
    min_size: Annotated[int, Field(ge=0, le=LARGEST_POST)] = 0
    content_type: Line = "application/octet-stream"
    acl: Line | None = None
    metadata: dict[Line, Line] = {}


AnyTerms = Annotated[Download | Upload, Field(discriminator="kind")]


class Item(Wire):
    """One object of a batch; a filename here goes before the batch's own."""

    key: str
    filename: str | None = None


class Header(Wire):
    """What all chunks of a batch have in common, and say alike."""

    v: Literal[1] = 1
    tenant: Name
    batch: BatchId
    requested_by: Text
    reason: Text | None = None
    grant: AnyTerms
    total: Annotated[int, Field(ge=1, le=LARGEST_BATCH)]
    chunk_size: Annotated[int, Field(ge=1, le=LARGEST_CHUNK)] = DEFAULT_CHUNK
    callback: Name | None = None
    deadline: Annotated[AwareDatetime, Field(strict=False)] | None = None


class Message(Header):
    """One chunk of a batch: the header, which chunk it is, and its items."""

    chunk: Annotated[int, Field(ge=0)] = 0
    items: Annotated[list[Item], Field(min_length=1, max_length=LARGEST_CHUNK)]

    @model_validator(mode="after")
    def _holds_what_its_header_says(self) -> Self:
        expected = min(self.chunk_size, self.total - self.chunk * self.chunk_size)
        if len(self.items) != expected:
            raise ValueError("chunk_invalid")
        return self

    @property
    def first(self) -> int:
        """The batch-wide number of this chunk's first item."""
        return self.chunk * self.chunk_size

    def header(self) -> dict[str, Any]:
        """What must be the same in every chunk, as JSON values."""
        return self.model_dump(mode="json", exclude={"chunk", "items"})


class Grant(Wire):
    """One permission. url, fields and headers together are a bearer secret until expires_at.

    A download is a GET of url; an upload is a multipart/form-data POST to url: fields, then file.
    """

    id: str
    key: str
    method: Literal["GET", "POST"]
    url: str = Field(repr=False)
    fields: dict[str, str] = Field(default_factory=dict, repr=False)
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    expires_at: Annotated[datetime, Field(strict=False)]
    limited_by: Literal["request", "policy", "credentials"]


class Outcome(Wire):
    """The answer to one chunk: its items in the order asked, or the refusal of the whole batch."""

    batch: str
    chunk: int
    status: Literal["issued", "refused"]
    refusal: Annotated[Refusal, Field(strict=False)] | None = None
    items: list[Grant | Annotated[Refusal, Field(strict=False)]] = []


def task_id(batch: str, chunk: int) -> str:
    """The Celery task id of a chunk: derived, so that any process can find the answer again."""
    return f"{batch}.{chunk}"


def grant_id(batch: str, item: int) -> str:
    """The id of a grant: its batch and its number there, counted from 0."""
    return f"{batch}.{item}"
