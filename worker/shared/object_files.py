"""Stores files in buckets, and finds the grant of a stored object."""

from base64 import b64encode
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, BinaryIO, NamedTuple

from worker.aws.storage_calls import call_storage
from worker.errors import Malformed, Transient
from worker.rules.storage_errors import ErrorResponse
from worker.rules.tenant_config import Bucket
from worker.shared.stored_files import grant_id_of

_EXISTS = "PreconditionFailed"


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


def find_grant_id(client: Any, bucket: str, object_key: str) -> str | None:
    """Return the id of the grant that stored an object; None if there is no such object.

    Storage answers 403 for a missing object to credentials that may not list the bucket. Raises
    Transient.
    """
    response = call_storage(client.head_object, Bucket=bucket, Key=object_key)
    if not isinstance(response, ErrorResponse):
        return grant_id_of(response)
    if response.status not in {HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN}:
        raise Transient(f"storage does not describe an object: {response.words}")
    return None
