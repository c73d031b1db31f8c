"""Whole objects, stored by the service itself."""

from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from worker.core.tenants.config import Bucket
from worker.errors import Malformed, Transient

_EXISTS = "PreconditionFailed"
_GONE = "NoSuchUpload"


class ObjectFile(NamedTuple):
    """What is to be stored: a file, the SHA-256 of all its bytes, and their content type.

    replaces says whether it may take the place of another.
    """

    stream: BinaryIO
    sha256: bytes
    content_type: str
    replaces: bool


class ReadObserver:
    """A file as botocore reads it; say is told of each look into it."""

    def __init__(self, stream: BinaryIO, say: Callable[[], None]) -> None:
        self._stream = stream
        self._say = say
        self.seek = stream.seek
        self.tell = stream.tell

    def read(self, size: int = -1) -> bytes:
        """Read on."""
        self._say()
        return self._stream.read(size)


def put_object(
    client: Any, bucket: Bucket, key: str, file: ObjectFile, say: Callable[[], None]
) -> None:
    """Store a file under a key, in one PUT: one that is cut off leaves nothing behind.

    say is told as it goes. Raises Transient where storage does not take it, and Malformed where
    another object has the key that it may not replace.
    """
    owner = {"ExpectedBucketOwner": bucket.owner} if bucket.owner else {}
    try:
        client.put_object(
            Bucket=bucket.bucket,
            Key=key,
            Body=ReadObserver(file.stream, say),
            ContentType=file.content_type,
            ChecksumSHA256=b64encode(file.sha256).decode(),
            Metadata={"sha256": file.sha256.hex()},
            **({} if file.replaces else {"IfNoneMatch": "*"}),
            **owner,
        )
    except (BotoCoreError, ClientError) as error:
        if error_code(error) != _EXISTS:
            raise Transient(f"storage did not take it: {error_code(error)}") from None
        _check_stored(client, bucket, key, file)


def _check_stored(client: Any, bucket: Bucket, key: str, file: ObjectFile) -> None:
    """Let pass what was stored by an attempt of which nobody heard."""
    try:
        found = client.head_object(Bucket=bucket.bucket, Key=key)
    except (BotoCoreError, ClientError) as error:
        raise Transient(f"storage does not say what it has: {error_code(error)}") from None
    if found["Metadata"].get("sha256") != file.sha256.hex():
        raise Malformed("another object has this key, and policy does not let it be replaced")


def start_upload(client: Any, bucket: str, key: str, said: Mapping[str, Any]) -> str:
    """Have storage begin an upload, and return its id. Raises Transient where it does not."""
    try:
        upload_id: str = client.create_multipart_upload(Bucket=bucket, Key=key, **said)["UploadId"]
    except (BotoCoreError, ClientError) as error:
        raise Transient(f"storage began no multipart upload: {error_code(error)}") from None
    return upload_id


def abort_upload(client: Any, bucket: str, key: str, upload_id: str) -> None:
    """Have storage forget an upload; one that was completed or aborted is no failure."""
    try:
        client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
    except ClientError as error:
        if error_code(error) != _GONE:
            raise Transient(f"storage aborted no upload: {error_code(error)}") from None
    except BotoCoreError as error:
        raise Transient(f"storage aborted no upload: {error_code(error)}") from None


def error_code(error: Exception) -> str:
    """Why storage did not do it: the code alone, as the rest may quote the request."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "unknown"))
    return type(error).__name__
