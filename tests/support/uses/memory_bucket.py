"""A bucket in memory that answers HEAD, for tests of many thousand steps."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from worker.aws.clients import S3Clients
from worker.aws.stored_files import Missing, StoredFile
from worker.errors import StorageSilent


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

    def find(self, object_key: str, _version: str | None = None) -> StoredFile | Missing:
        """Answer as FileReader does."""
        if self.is_silent:
            raise StorageSilent("storage does not answer")
        found = self.objects.get(object_key)
        if found is None:
            return "absent"
        grant, size, etag, modified_at = found
        return StoredFile(grant, size, etag, None, None, None, modified_at)


class MemoryClients(S3Clients):
    """Signs as always, and makes calls to a bucket in memory."""

    def __init__(self, bucket: MemoryBucket) -> None:
        super().__init__()
        self._bucket = bucket

    def file_reader(self, *_: Any) -> Any:
        """Return the bucket, which answers as a FileReader."""
        return self._bucket
