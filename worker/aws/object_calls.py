"""Calls about objects in storage: finds, stores and lists them, and ends multipart uploads."""

import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import islice
from typing import Any, BinaryIO, Literal, NamedTuple

from worker.aws.storage_calls import call_storage
from worker.errors import Malformed, Transient
from worker.rules.issued_grants import MAX_AHEAD, MAX_SIZE, is_storable
from worker.rules.storage_errors import UNREADABLE, ErrorResponse
from worker.rules.tenant_config import Bucket

MAX_LISTINGS = 10
"""The largest number of pages, of 1,000 uploads each, that are read of one listing."""

_is_upload_id = re.compile(r"[!-~]{1,1024}").fullmatch
"""S3 promises no form of an id. It is in two URLs and two rows of its item, so it is bounded."""

_EXISTS = "PreconditionFailed"
_ENDED = frozenset({"NoSuchUpload", "NoSuchBucket"})  # without its bucket, no upload exists


class ObjectFile(NamedTuple):
    """A file to store: its stream, the SHA-256 of all its bytes, and its content type.

    may_replace says whether it may replace another object.
    """

    stream: BinaryIO
    sha256: bytes
    content_type: str
    may_replace: bool


class CallbackStream:
    """Wraps a stream for botocore, and calls on_read before each read."""

    def __init__(self, stream: BinaryIO, on_read: Callable[[], None]) -> None:
        self._stream = stream
        self._on_read = on_read
        self.seek = stream.seek
        self.tell = stream.tell

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        self._on_read()
        return self._stream.read(size)


class CreatedUpload(NamedTuple):
    """A multipart upload that storage has created.

    is_only is false if the call was repeated: an earlier answer may have been lost, and with it the
    id of another upload.
    """

    upload_id: str
    is_only: bool


class ListedUpload(NamedTuple):
    """A multipart upload in a listing; created_at is None if storage does not report it."""

    upload_id: str
    created_at: datetime | None


def put_object(
    client: Any, bucket: Bucket, object_key: str, file: ObjectFile, on_read: Callable[[], None]
) -> ErrorResponse | None:
    """Store a file under a key in one PUT, which leaves nothing behind if it is interrupted.

    on_read is called before each read of the file. Returns storage's answer if it refuses the file.
    Raises Transient, and Malformed if another object has the key and may not be replaced.
    """
    response = call_storage(
        client.put_object,
        Bucket=bucket.bucket,
        Key=object_key,
        Body=CallbackStream(file.stream, on_read),
        ContentType=file.content_type,
        ChecksumSHA256=b64encode(file.sha256).decode(),
        Metadata={"sha256": file.sha256.hex()},
        **({} if file.may_replace else {"IfNoneMatch": "*"}),
        **({"ExpectedBucketOwner": bucket.owner} if bucket.owner else {}),
    )
    if isinstance(response, ErrorResponse) and response.code == _EXISTS:
        return _check_stored(client, bucket, object_key, file)
    return response if isinstance(response, ErrorResponse) else None


def _check_stored(
    client: Any, bucket: Bucket, object_key: str, file: ObjectFile
) -> ErrorResponse | None:
    """Accept an object left by an earlier attempt whose response was lost."""
    response = call_storage(client.head_object, Bucket=bucket.bucket, Key=object_key)
    if isinstance(response, ErrorResponse):
        return response
    if response.get("Metadata", {}).get("sha256") != file.sha256.hex():
        raise Malformed("another object has this key, and the policy does not allow overwriting it")
    return None


def start_upload(
    client: Any, bucket: str, object_key: str, params: Mapping[str, Any]
) -> CreatedUpload | ErrorResponse:
    """Start a multipart upload; return storage's answer if it refuses. Raises Transient."""
    response = call_storage(client.create_multipart_upload, Bucket=bucket, Key=object_key, **params)
    if isinstance(response, ErrorResponse):
        return response
    upload_id = response.get("UploadId")
    if not isinstance(upload_id, str) or not _is_upload_id(upload_id):
        return UNREADABLE
    return CreatedUpload(upload_id, response["ResponseMetadata"].get("RetryAttempts") == 0)


def abort_upload(client: Any, bucket: str, object_key: str, upload_id: str) -> None:
    """Abort a multipart upload; one that was completed or aborted before is not an error.

    Raises Transient, also if storage refuses: the reason may be repaired before the next attempt.
    """
    response = call_storage(
        client.abort_multipart_upload, Bucket=bucket, Key=object_key, UploadId=upload_id
    )
    if isinstance(response, ErrorResponse) and response.code not in _ENDED:
        raise Transient(f"storage aborts no upload: {response.words}")


def find_grant_id(client: Any, bucket: str, object_key: str) -> str | None:
    """Return the id of the grant that stored an object; None if there is no such object.

    Storage answers 403 for a missing object to credentials that may not list the bucket. Raises
    Transient.
    """
    response = call_storage(client.head_object, Bucket=bucket, Key=object_key)
    if not isinstance(response, ErrorResponse):
        return _grant_id(response)
    if response.status not in {HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN}:
        raise Transient(f"storage does not describe an object: {response.words}")
    return None


def _grant_id(response: Mapping[str, Any]) -> str:
    """Return the grant id in an object's metadata, or an empty text."""
    metadata: Mapping[str, str] = response["Metadata"]  # names of headers, so case means nothing
    return next((value for name, value in metadata.items() if name.lower() == "grant-id"), "")


def list_uploads(client: Any, bucket: str, object_key: str) -> list[ListedUpload]:
    """List the unfinished multipart uploads of one object key.

    Reads at most MAX_LISTINGS pages: the keys that begin with this one are in the same listing.
    Raises Transient, also if storage refuses, as abort_upload does.
    """
    pages = client.get_paginator("list_multipart_uploads").paginate(
        Bucket=bucket, Prefix=object_key
    )
    listing: Any = call_storage(lambda: list(islice(pages, MAX_LISTINGS)))
    if isinstance(listing, ErrorResponse):
        if listing.code in _ENDED:
            return []
        raise Transient(f"storage lists no uploads: {listing.words}")
    uploads: dict[str, ListedUpload] = {}
    for values in (values for page in listing for values in page.get("Uploads", [])):
        if values.get("Key") == object_key and _is_upload_id(values.get("UploadId") or ""):
            moment = values.get("Initiated")
            created_at = moment.astimezone(UTC) if isinstance(moment, datetime) else None
            uploads[values["UploadId"]] = ListedUpload(values["UploadId"], created_at)
    return list(uploads.values())


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
            grant_id=_grant_id(response) or None,
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
