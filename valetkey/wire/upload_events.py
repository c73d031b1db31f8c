"""The webhooks about uploads, as JSON: what became of the grants of a request with `notify`.

They have the shape that Standard Webhooks 1.0.0 recommends, and only grow: unknown fields are
ignored, and an unknown type is kept as text.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from valetkey.wire.terms import ReplyModel

UploadEventType = Literal["upload.stored", "upload.unused", "upload.mismatched"]
"""The types of webhooks that a request can ask for."""


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
    stored_at: Annotated[datetime, Field(strict=False)] | None = None
    late: bool = False
    problem: str | None = None


class UploadEventData(ReplyModel):
    """The content of a webhook about uploads: grants of one chunk.

    chunk: the number of the chunk, counted from 0.
    uploads: the grants, in the order of their items.
    """

    tenant: str
    batch: str
    chunk: int
    uploads: list[ReportedUpload]


class UploadEvent(ReplyModel):
    """A webhook about uploads.

    type: `upload.stored` if storage has an object as granted, `upload.mismatched` if it has another
    size, type or checksum than granted, and `upload.unused` if the grants ended without an object.
    timestamp: the time at which the service recorded this.
    data: the grants that it is about.
    """

    type: Annotated[UploadEventType | str, Field(union_mode="left_to_right")]
    timestamp: Annotated[datetime, Field(strict=False)]
    data: UploadEventData
