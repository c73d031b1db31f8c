"""Calls to storage that the service makes itself: objects, and the ends of multipart uploads."""

from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from worker.core.tenants.config import Bucket
from worker.errors import Malformed, Transient

_EXISTS = "PreconditionFailed"
_NO_UPLOAD = "NoSuchUpload"


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
) -> None:
    """Store a file under a key in one PUT, which leaves nothing behind if it is interrupted.

    on_read is called before each read of the file. Raises Transient if storage does not take the
    file, and Malformed if another object has the key and may not be replaced.
    """
    owner = {"ExpectedBucketOwner": bucket.owner} if bucket.owner else {}
    try:
        client.put_object(
            Bucket=bucket.bucket,
            Key=object_key,
            Body=CallbackStream(file.stream, on_read),
            ContentType=file.content_type,
            ChecksumSHA256=b64encode(file.sha256).decode(),
            Metadata={"sha256": file.sha256.hex()},
            **({} if file.may_replace else {"IfNoneMatch": "*"}),
            **owner,
        )
    except (BotoCoreError, ClientError) as error:
        if error_code(error) != _EXISTS:
            raise Transient(f"storage did not take it: {error_code(error)}") from None
        _check_stored(client, bucket, object_key, file)


def _check_stored(client: Any, bucket: Bucket, object_key: str, file: ObjectFile) -> None:
    """Accept an object left by an earlier attempt whose response was lost."""
    try:
        response = client.head_object(Bucket=bucket.bucket, Key=object_key)
    except (BotoCoreError, ClientError) as error:
        raise Transient(f"storage does not describe the object: {error_code(error)}") from None
    if response["Metadata"].get("sha256") != file.sha256.hex():
        raise Malformed("another object has this key, and the policy does not allow overwriting it")


def start_upload(client: Any, bucket: str, object_key: str, params: Mapping[str, Any]) -> str:
    """Start a multipart upload and return its id. Raises Transient if storage does not start it."""
    try:
        response = client.create_multipart_upload(Bucket=bucket, Key=object_key, **params)
    except (BotoCoreError, ClientError) as error:
        raise Transient(f"storage started no multipart upload: {error_code(error)}") from None
    upload_id: str | None = response.get("UploadId")
    if not upload_id:
        raise Transient("storage started a multipart upload without an id")
    return upload_id


def abort_upload(client: Any, bucket: str, object_key: str, upload_id: str) -> None:
    """Abort a multipart upload; one that was completed or aborted before is not an error.

    Raises Transient if storage does not abort it.
    """
    try:
        client.abort_multipart_upload(Bucket=bucket, Key=object_key, UploadId=upload_id)
    except (BotoCoreError, ClientError) as error:
        if error_code(error) != _NO_UPLOAD:
            raise Transient(f"storage aborted no upload: {error_code(error)}") from None


def error_code(error: Exception) -> str:
    """Return the code of a storage error alone, because its message may quote the request."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "unknown"))
    return type(error).__name__
