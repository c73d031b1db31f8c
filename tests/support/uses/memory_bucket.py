"""A bucket in memory that answers HEAD, for tests of many thousand steps."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from botocore.exceptions import ClientError, EndpointConnectionError

from worker.aws.clients import S3Clients


class MemoryObject(NamedTuple):
    """A stored object, and the id of the grant that stored it."""

    grant_id: str
    size: int
    etag: str
    modified_at: datetime


@dataclass
class MemoryBucket:
    """Objects by key. While is_silent, nothing is answered."""

    objects: dict[str, MemoryObject] = field(default_factory=dict)
    is_silent: bool = False

    def head_object(self, *, Key: str, **_: Any) -> dict[str, Any]:  # noqa: N803 - boto3's names
        """Answer as boto3 does."""
        if self.is_silent:
            raise EndpointConnectionError(endpoint_url="memory")
        stored = self.objects.get(Key)
        if stored is None:
            response: Any = {"Error": {"Code": "404"}, "ResponseMetadata": {"HTTPStatusCode": 404}}
            raise ClientError(response, "HeadObject")
        return {
            "ContentLength": stored.size,
            "ETag": f'"{stored.etag}"',
            "LastModified": stored.modified_at,
            "Metadata": {"grant-id": stored.grant_id},
        }


class MemoryClients(S3Clients):
    """Signs as always, and makes calls to a bucket in memory."""

    def __init__(self, bucket: MemoryBucket) -> None:
        super().__init__()
        self._bucket = bucket

    def client(self, *_: Any) -> Any:
        """Return the bucket, which answers as a boto3 client."""
        return self._bucket
