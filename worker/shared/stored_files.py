"""Looks for objects in storage, and describes what is stored."""

from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Literal, NamedTuple

from worker.aws.storage_calls import call_storage
from worker.errors import Transient
from worker.rules.storage_errors import UNREADABLE, ErrorResponse
from worker.rules.tenant_config import Bucket
from worker.shared.reported_values import MAX_AHEAD, MAX_SIZE, is_storable


def grant_id_of(response: Mapping[str, Any]) -> str:
    """Return the grant id in an object's metadata, or an empty text."""
    metadata: Mapping[str, str] = response["Metadata"]  # names of headers, so case means nothing
    return next((value for name, value in metadata.items() if name.lower() == "grant-id"), "")


_ALGORITHMS = ("sha256", "crc32", "crc32c", "crc64nvme")


_NO_VERSION = "null"  # of an object that was stored without versioning


_MAX_TEXT = 1_024  # characters of a header


_INVALID_VALUES = "storage reports invalid values of an object"


Missing = Literal["absent", "hidden"]
"""The reasons for which storage shows no object.

absent: there is none. hidden: the credentials may not read it, or there is none and they may not
list the bucket. AWS: API_HeadObject.html.
"""


class StorageRefuses(Transient):
    """Storage does not describe an object, and may not until something changes.

    It answers with an error, as for an object that is encrypted with a key of its own (AWS:
    API_HeadObject.html), or with what cannot be true.
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


class FileReader:
    """Looks for objects in one bucket with a boto3 client. Threads may share it."""

    def __init__(self, client: Any, bucket: Bucket) -> None:
        self._client = client
        self._params = {"Bucket": bucket.bucket, "ChecksumMode": "ENABLED"}
        if bucket.owner:
            self._params["ExpectedBucketOwner"] = bucket.owner

    def find(self, object_key: str, version: str | None = None) -> StoredFile | Missing:
        """Return the object of a key, or why there is none to see. Raises Transient."""
        params = self._params if version is None else self._params | {"VersionId": version}
        response = call_storage(self._client.head_object, Key=object_key, **params)
        if not isinstance(response, ErrorResponse):
            return _stored_file(response)
        match response.status:
            case HTTPStatus.NOT_FOUND:
                return "absent"
            case HTTPStatus.FORBIDDEN:
                return "hidden"
        if response == UNREADABLE:
            raise StorageRefuses(_INVALID_VALUES, "storage")
        words = ErrorResponse(response.status).words
        raise StorageRefuses(f"storage does not describe an object: {words}", "storage")


def _stored_file(response: Mapping[str, Any]) -> StoredFile:
    version = response.get("VersionId")
    try:
        file = StoredFile(
            grant_id=grant_id_of(response) or None,
            size=response["ContentLength"],
            etag=response.get("ETag", "").strip('"'),
            version=None if version == _NO_VERSION else version,
            checksum=_checksum(response),
            content_type=response.get("ContentType"),
            modified_at=response["LastModified"].astimezone(UTC),
        )
    except (KeyError, ValueError, ArithmeticError):
        file = None
    if file is None or not _is_credible(file):
        raise StorageRefuses(_INVALID_VALUES, "storage")
    return file


def _is_credible(file: StoredFile) -> bool:
    """Return true if the values from storage are possible, and the database can store them."""
    texts = (value for value in file if isinstance(value, str))
    return (
        0 <= file.size <= MAX_SIZE
        and file.modified_at <= datetime.now(UTC) + MAX_AHEAD
        and all(len(text) <= _MAX_TEXT and is_storable(text) for text in texts)
    )


def _checksum(response: Mapping[str, Any]) -> str | None:
    for algorithm in _ALGORITHMS:
        value = response.get(f"Checksum{algorithm.upper()}")
        # A composite one, VALUE-COUNT, is over the checksums of the parts.
        if value is not None and "-" not in value:
            return f"{algorithm}:{value}"
    return None
