"""Issued grants: their names and real buckets, what they allow, and reports of their uses."""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from valetkey.signing.sigv4 import FILENAME_VARIABLE
from valetkey.wire.grant_ids import grant_id

if TYPE_CHECKING:  # the tenant config imports pydantic, which takes long
    from worker.rules.tenant_config import Bucket, Policy


_AWS_SUFFIXES = (".amazonaws.com", ".amazonaws.com.cn")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def storage_name(bucket: "Bucket") -> str:
    """Return the name of the real bucket of a profile, unique among all storage.

    A name in AWS is global, so it has no host. For other storage, the host of links precedes the
    name. Profiles without an endpoint share the installation's default, whatever it is today, so
    the name follows from the profile alone, in every process and in the history of changes.
    """
    return qualified_name(bucket.bucket, bucket.endpoint)


def qualified_name(name: str, endpoint: str | None) -> str:
    """Return a bucket's unique name: HOST/NAME at an endpoint, NAME if endpoint is None (AWS)."""
    host = storage_host(endpoint)
    return name if host is None else f"{host}/{name}"


def aws_partition(region: str) -> str:
    """Return the partition of AWS that has a region."""
    prefixes = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}
    return next((name for prefix, name in prefixes.items() if region.startswith(prefix)), "aws")


def aws_domain(region: str) -> str:
    """Return the domain of AWS in which a region's services are."""
    return "amazonaws.com.cn" if aws_partition(region) == "aws-cn" else "amazonaws.com"


def plain_name(storage_name: str) -> str:
    """Return the name that storage itself gives a bucket, which has no host."""
    is_arn = storage_name.startswith("arn:")
    return storage_name if is_arn else storage_name.rpartition("/")[2]


def storage_host(endpoint: str | None) -> str | None:
    """Return the host and port of an endpoint in one spelling, or None for AWS."""
    if endpoint is None:
        return None
    scheme, _, remainder = endpoint.lower().partition("://")
    # With and without its default port, an endpoint is the same server.
    host = remainder.partition("/")[0].removesuffix(_DEFAULT_PORTS.get(scheme, ":"))
    return None if host.endswith(_AWS_SUFFIXES) else host


def is_on_aws(bucket: "Bucket", address: str | None) -> bool:
    """Return whether the bucket of a profile is on AWS; address is where its links lead.

    A profile without an endpoint need not be: the installation's default may be another server.
    """
    is_elsewhere = bucket.endpoint is None and storage_host(address) is not None
    return bucket.provider == "aws" and not is_elsewhere


_MAX_ITEM_DIGITS = 9  # more than the item numbers of any batch have


class GrantName(NamedTuple):
    """A grant by its batch and its item number, and the tenant if that is named, too.

    Tenants choose the ids of their batches, so a batch id is unique only together with a tenant's
    id.
    """

    batch_id: str
    item_number: int
    tenant: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `[TENANT/]BATCH.NUMBER`. Raises ValueError."""
        tenant, _, grant = text.strip().rpartition("/")
        batch_id, _, number = grant.partition(".")
        if not (number.isascii() and number.isdecimal() and len(number) <= _MAX_ITEM_DIGITS):
            raise ValueError("a grant's id is [TENANT/]BATCH.NUMBER")
        return cls(batch_id.lower(), int(number), tenant or None)

    def __str__(self) -> str:
        id_ = grant_id(self.batch_id, self.item_number)
        return id_ if self.tenant is None else f"{self.tenant}/{id_}"


class IssuedItem(NamedTuple):
    """The parts of a recorded item by which grants can be withdrawn.

    bucket is its bucket profile, and storage the name of the real bucket to which that leads today;
    None if it was removed.
    """

    batch_id: str
    item_number: int
    bucket: str
    storage: str | None
    object_key: str


MAX_OPEN_TIME = timedelta(days=1)
"""The longest time for which a batch accepts further chunks: the maximum age of a message."""


SLOT_KINDS = ("upload", "put", "multipart")
"""The kinds that store an object."""


def issued_kind(kind: str, detail: object) -> str:
    """Return the kind as which an item was issued: a form is a put where storage takes no forms.

    kind is that of its batch. detail is that of its row, which names the kind if it is another one.
    """
    own = detail.get("kind") if isinstance(detail, dict) else None
    return own if isinstance(own, str) else kind


def may_store(policy: "Policy") -> bool:
    """Return True if the policy allows a kind of grant that stores objects."""
    return not set(SLOT_KINDS).isdisjoint(policy.kinds)


GRACE = timedelta(minutes=15)
"""The time from the end of upload slots until storage is asked what they stored.

A request that began in time may still be under way, storage may take minutes to complete a
multipart upload, notifications arrive late, and clocks differ. What is stored after that is
charged when it is learned of.
"""

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


Event = Literal["stored", "completed", "aborted", "downloaded", "deleted"]
"""The events of uses. An object that a multipart upload stored is completed, not stored."""

Source = Literal["probe", "event", "log"]
"""The source of a report: a HEAD by the service, an event of storage, or an access log."""


MAX_SIZE = 2**53
"""The largest size in bytes that a report may have: JSON carries no larger number exactly."""

MAX_AHEAD = timedelta(hours=1)
"""The longest time by which a report may be ahead of the service's clock."""

CLOCK_SKEW = timedelta(seconds=10)
"""The largest difference between the clocks of storage and of a worker that counts as none."""

_SURROGATES = re.compile("[\ud800-\udfff]")


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


def is_storable(text: str) -> bool:
    """Return true if the database can store a text.

    PostgreSQL stores no NUL. JSON can contain half of a surrogate pair, which is no UTF-8.
    """
    return "\0" not in text and (text.isascii() or not _SURROGATES.search(text))
