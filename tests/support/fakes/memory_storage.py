"""A storage in memory, for the HTTP server of http_storage."""

import re
from itertools import count

from tests.support.fakes.http_storage import StorageResponse, StoredRequest


class MemoryStorage:
    """A storage that checks nothing, and keeps objects and uploads in memory."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.uploads: set[str] = set()
        self._ids = count()

    def __call__(self, request: StoredRequest) -> StorageResponse:
        key, _, query = request.target.partition("?")
        upload = re.search("uploadId=([^&]+)", query)
        if request.method == "POST" and query.startswith("uploads"):
            upload_id = f"upload-{next(self._ids)}"
            self.uploads.add(upload_id)
            return StorageResponse(body=f"<R><UploadId>{upload_id}</UploadId></R>".encode())
        if request.method in {"DELETE", "POST"} and upload:
            self.uploads.discard(upload[1])
        elif request.method == "DELETE":
            self.objects.pop(key, None)
        elif request.method == "PUT":
            self.objects[key] = request.body
        elif request.method in {"GET", "HEAD"}:
            return StorageResponse(body=self.objects.get(key, b""))
        return StorageResponse()
