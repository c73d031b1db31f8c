"""What a source tells about a use, before it is compared with the grant."""

from datetime import datetime
from typing import Literal, NamedTuple

Event = Literal["stored", "completed", "aborted", "downloaded", "deleted"]
"""The events of uses. An object that a multipart upload stored is completed, not stored."""

Source = Literal["probe", "event", "log"]
"""Who tells: the service looked for the object, storage sent an event, or an access log has it."""


class UseReport(NamedTuple):
    """What a source tells about one object.

    bucket is the real bucket. grant_id is None for a deletion, which names no grant. sequencer
    orders reports of one key that have the same time; "" sorts first. request_id is the id that
    storage gave the request, and identifies a download. size is in bytes.
    """

    event: Event
    source: Source
    bucket: str
    object_key: str
    grant_id: str | None
    occurred_at: datetime
    size: int | None = None
    etag: str | None = None
    version: str | None = None
    checksum: str | None = None
    content_type: str | None = None
    sequencer: str = ""
    request_id: str | None = None
    remote_address: str | None = None
    user_agent: str | None = None
