"""Reports of uses, what a grant allowed, and whether a report can be true."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from valetkey.signing.sigv4 import FILENAME_VARIABLE
from valetkey.wire.grant_ids import grant_id
from worker.rules.issued_grants import SLOT_KINDS
from worker.shared.reported_values import MAX_AHEAD, MAX_SIZE, is_storable

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


def plain_name(storage_name: str) -> str:
    """Return the name that storage itself gives a bucket, which has no host."""
    is_arn = storage_name.startswith("arn:")
    return storage_name if is_arn else storage_name.rpartition("/")[2]


SECOND_LOOK = timedelta(days=1)
"""The time from the end of upload slots until storage is asked once more what they stored.

A request that began in time may continue for long: 5 GiB, the most that one may store, take a day
at 60 KB a second.
"""


class UsedGrant(NamedTuple):
    """An issued grant: whose it is, and the limits that its use must keep.

    kind is the one as which it was issued. real_buckets are the storage names of those to which its
    bucket profile leads or has led. terms are those of its batch, detail the fields of its item.
    expires_in is in seconds. The endpoint callback receives events of the types in notify.
    access_keys are all those that signed it, or none if they were not read.
    """

    tenant: str
    batch_number: int
    batch_id: str
    chunk_number: int
    item_number: int
    kind: str
    bucket: str
    real_buckets: frozenset[str]
    object_key: str
    issued_at: datetime
    expires_in: int
    terms: Mapping[str, Any]
    detail: Mapping[str, Any]
    notify: tuple[str, ...] = ()
    callback: str | None = None
    access_keys: frozenset[str] = frozenset()

    @property
    def id(self) -> str:
        """The id of the grant."""
        return grant_id(self.batch_id, self.item_number)

    @property
    def item(self) -> tuple[int, int]:
        """The number of its batch, and of its item."""
        return self.batch_number, self.item_number

    @property
    def chunk(self) -> tuple[int, int]:
        """The number of its batch, and of its chunk."""
        return self.batch_number, self.chunk_number

    @property
    def expires_at(self) -> datetime:
        """The end of the grant."""
        return self.issued_at + timedelta(seconds=self.expires_in)

    @property
    def has_known_key(self) -> bool:
        """True if the grant stores an object, and the client does not choose the end of its key."""
        return self.kind in SLOT_KINDS and not self.object_key.endswith(FILENAME_VARIABLE)

    @property
    def has_encryption_key(self) -> bool:
        """True if storage encrypts the object with a key whose use it may deny to readers."""
        return (self.terms.get("encryption") or {}).get("algorithm") == "aws:kms"

    def is_key(self, object_key: str) -> bool:
        """Return true if the grant is for this object key."""
        if self.kind == "upload" and self.object_key.endswith(FILENAME_VARIABLE):
            return object_key.startswith(self.object_key.removesuffix(FILENAME_VARIABLE))
        return object_key == self.object_key

    @property
    def reserved_bytes(self) -> int:
        """The bytes that were charged for the grant: those of the largest object it may store."""
        return self.size_range[1] or 0

    @property
    def size_range(self) -> tuple[int, int | None]:
        """The smallest and the largest size in bytes that the grant allows to store."""
        size = self.detail.get("size")
        if self.kind != "upload" and isinstance(size, int):
            return size, size
        return self.terms.get("min_size") or 0, self.terms.get("max_size")


GRACE = timedelta(minutes=15)
"""The time from the end of upload slots until storage is asked what they stored.

A request that began in time may still be under way, storage may take minutes to complete a
multipart upload, notifications arrive late, and clocks differ. What is stored after that is
charged when it is learned of.
"""
