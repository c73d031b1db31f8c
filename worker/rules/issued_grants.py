"""Issued grants: their real buckets, and what they allow."""

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

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
