"""Looks for an object in storage: one HEAD, which tells the grant that stored it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Literal, NamedTuple

from worker.aws.storage_calls import call_storage
from worker.core.policy.error_responses import ErrorResponse
from worker.core.tenants.config import Bucket
from worker.errors import Transient

_ALGORITHMS = ("sha256", "crc32", "crc32c", "crc64nvme")
_NO_VERSION = "null"  # of an object that was stored without versioning

Missing = Literal["absent", "hidden"]
"""The reasons for which storage shows no object.

absent: there is none. hidden: the credentials may not read it, or there is none and they may not
list the bucket. AWS: API_HeadObject.html.
"""


class StorageRefuses(Transient):
    """Storage answers that it does not tell of an object, and may do so until something changes.

    So it does of an object that is encrypted with a key of its own (AWS: API_HeadObject.html).
    """


class StoredFile(NamedTuple):
    """The newest object of a key, or one version of it.

    grant_id is None if no grant stored it; size is in bytes. checksum is algorithm:value, and None
    if storage has none over the whole object.
    """

    grant_id: str | None
    size: int
    etag: str
    version: str | None
    checksum: str | None
    content_type: str | None
    modified_at: datetime


def find_file(
    client: Any, bucket: Bucket, object_key: str, version: str | None = None
) -> StoredFile | Missing:
    """Return the object of a key, or why there is none to see. Raises Transient."""
    params = {"ExpectedBucketOwner": bucket.owner} if bucket.owner else {}
    if version is not None:
        params["VersionId"] = version
    response = call_storage(
        client.head_object, Bucket=bucket.bucket, Key=object_key, ChecksumMode="ENABLED", **params
    )
    if not isinstance(response, ErrorResponse):
        return _file(response)
    match response.status:
        case HTTPStatus.NOT_FOUND:
            return "absent"
        case HTTPStatus.FORBIDDEN:
            return "hidden"
    raise StorageRefuses(f"storage does not tell of an object: {response.words}", "storage")


def _file(response: Mapping[str, Any]) -> StoredFile:
    modified_at, size = response.get("LastModified"), response.get("ContentLength")
    if not isinstance(modified_at, datetime) or not isinstance(size, int):
        raise Transient("storage does not tell the size or the time of an object", "storage")
    version = response.get("VersionId")
    return StoredFile(
        grant_id=response.get("Metadata", {}).get("grant-id") or None,
        size=size,
        etag=str(response.get("ETag", "")).strip('"'),
        version=None if version == _NO_VERSION else version,
        checksum=_checksum(response),
        content_type=response.get("ContentType"),
        modified_at=modified_at.astimezone(UTC),
    )


def _checksum(response: Mapping[str, Any]) -> str | None:
    for algorithm in _ALGORITHMS:
        value = response.get(f"Checksum{algorithm.upper()}")
        # A composite one, VALUE-COUNT, is over the checksums of the parts.
        if isinstance(value, str) and "-" not in value:
            return f"{algorithm}:{value}"
    return None
