"""Issued grants: their names and real buckets, what they allow, and values that storage reports."""

import re
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, Self

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


CLOCK_SKEW = timedelta(seconds=10)
"""The largest difference between the clocks of storage and of a worker that counts as none."""

MAX_SIZE = 2**53
"""The largest size in bytes that a report may have: JSON carries no larger number exactly."""

MAX_AHEAD = timedelta(hours=1)
"""The longest time by which a report may be ahead of the service's clock."""

_SURROGATES = re.compile("[\ud800-\udfff]")


def is_storable(text: str) -> bool:
    """Return true if the database can store a text.

    PostgreSQL stores no NUL. JSON can contain half of a surrogate pair, which is no UTF-8.
    """
    return "\0" not in text and (text.isascii() or not _SURROGATES.search(text))
