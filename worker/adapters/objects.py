"""Whole objects, stored by the service itself."""

from base64 import b64encode
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from worker.adapters.multiparts import reason
from worker.core.tenancy import Bucket
from worker.errors import Malformed, Transient

_EXISTS = "PreconditionFailed"


class File(NamedTuple):
    """What is to be stored: a file, the SHA-256 of all its bytes, and their content type.

    replaces says whether it may take the place of another.
    """

    stream: BinaryIO
    sha256: bytes
    content_type: str
    replaces: bool


class Watched:
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


def store(client: Any, bucket: Bucket, key: str, file: File, say: Callable[[], None]) -> None:
    """Store a file under a key, in one PUT: one that is cut off leaves nothing behind.

    say is told as it goes. Raises Transient where storage does not take it, and Malformed where
    another object has the key that it may not replace.
    """
    owner = {"ExpectedBucketOwner": bucket.owner} if bucket.owner else {}
    try:
        client.put_object(
            Bucket=bucket.bucket,
            Key=key,
            Body=Watched(file.stream, say),
            ContentType=file.content_type,
            ChecksumSHA256=b64encode(file.sha256).decode(),
            Metadata={"sha256": file.sha256.hex()},
            **({} if file.replaces else {"IfNoneMatch": "*"}),
            **owner,
        )
    except (BotoCoreError, ClientError) as error:
        if reason(error) != _EXISTS:
            raise Transient(f"storage did not take it: {reason(error)}") from None
        _check_stored(client, bucket, key, file)


def _check_stored(client: Any, bucket: Bucket, key: str, file: File) -> None:
    """Let pass what was stored by an attempt of which nobody heard."""
    try:
        found = client.head_object(Bucket=bucket.bucket, Key=key)
    except (BotoCoreError, ClientError) as error:
        raise Transient(f"storage does not say what it has: {reason(error)}") from None
    if found["Metadata"].get("sha256") != file.sha256.hex():
        raise Malformed("another object has this key, and policy does not let it be replaced")
