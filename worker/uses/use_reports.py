"""Reports of uses of grants, and whether one can be true."""

from datetime import datetime
from typing import Literal, NamedTuple

from worker.rules.issued_grants import MAX_AHEAD, MAX_SIZE, is_storable

Event = Literal["stored", "completed", "aborted", "downloaded", "deleted"]
"""The events of uses. An object that a multipart upload stored is completed, not stored."""

Source = Literal["probe", "event", "log"]
"""The source of a report: a HEAD by the service, an event of storage, or an access log."""


class UseReport(NamedTuple):
    """A report about one object.

    bucket is the storage name of the real bucket, or its plain name in what storage itself wrote:
    a log, and a notification until its queue is known. grant_id is None for a deletion, which names
    no grant. sequencer orders reports of one key that have the same time; "" sorts first.
    request_id is the id that storage gave the request, and identifies a download. size is in bytes.
    access_keys are those that its URL names as signers: one, or more if its client added some.
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
    access_keys: frozenset[str] = frozenset()


def is_credible(report: UseReport, now: datetime) -> bool:
    """Return true if every field of a report can be true, and the database can store it.

    Storage, clients and whoever writes to a queue choose the values. A time in the future would
    keep all later reports of its key from changing anything.
    """
    return (
        report.occurred_at <= now + MAX_AHEAD
        and (report.size is None or 0 <= report.size <= MAX_SIZE)
        and is_storable("".join([value for value in report if isinstance(value, str)]))
    )
