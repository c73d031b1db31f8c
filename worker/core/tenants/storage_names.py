"""Tells real buckets of the same name apart: those of two S3 servers are two buckets."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the tenant config imports pydantic, which takes long
    from worker.core.tenants.config import Bucket

_AWS_SUFFIXES = (".amazonaws.com", ".amazonaws.com.cn")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def storage_name(bucket: "Bucket") -> str:
    """Return the name of the real bucket of a profile, unique among all storage.

    A name in AWS is global and stands alone. In front of any other stands the host in links.
    Profiles without an endpoint have the installation's default in common, whatever it is today,
    so the name follows from the profile alone, in every process and in the history of changes.
    """
    return qualified_name(bucket.bucket, bucket.endpoint)


def qualified_name(name: str, endpoint: str | None) -> str:
    """Return the unique name of the bucket that has this name at an endpoint; None means AWS."""
    host = storage_host(endpoint)
    return name if host is None else f"{host}/{name}"


def aws_partition(region: str) -> str:
    """Return the partition of AWS that has a region."""
    prefixes = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}
    return next((name for prefix, name in prefixes.items() if region.startswith(prefix)), "aws")


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


def is_ordinary_bucket(name: str) -> bool:
    """Return True if the name is neither that of an access point nor of a directory bucket."""
    return not name.startswith("arn:") and not name.endswith(("--x-s3", "--xa-s3"))
