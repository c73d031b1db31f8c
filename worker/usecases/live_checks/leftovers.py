"""The objects and uploads that live checks may have left in storage."""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import unquote

from worker.core.signing.sigv4 import Target
from worker.net.storage_requests import StorageRequest, StorageResponse

VERSION_HEADER = "x-amz-version-id"
"""The header in which storage names the version that a request has written."""


@dataclass
class Leftovers:
    """Object keys with the versions that storage named, and ids of uploads with their keys.

    Keys are recorded before the request that may write them: the response may never come.
    unknown_uploads are the keys of uploads whose id is not known yet.
    """

    versions: dict[str, set[str]] = field(default_factory=dict)
    uploads: dict[str, str] = field(default_factory=dict)
    unknown_uploads: set[str] = field(default_factory=set)

    def add_request(self, request: StorageRequest, target: Target) -> "PendingWrite | None":
        """Record the key that a request may write; None if it writes nothing."""
        if request.method in {"GET", "HEAD"}:
            return None
        fields = {name: value for name, value in request.form if isinstance(value, str)}
        path = request.url.partition(target.host)[2].partition("?")[0]
        key = fields.get("key") or unquote(path.removeprefix(target.prefix))
        is_new = key not in self.versions
        self.versions.setdefault(key, set())
        return PendingWrite(key, is_new)

    def add_response(self, write: "PendingWrite | None", response: StorageResponse) -> None:
        """Record the version that a request has written, or forget a key that it did not write."""
        if write is None:
            return
        version = response.headers.get(VERSION_HEADER)
        if response.is_success and version:
            self.versions[write.key].add(version)
        is_refusal = HTTPStatus.BAD_REQUEST <= response.status < HTTPStatus.INTERNAL_SERVER_ERROR
        if is_refusal and write.is_new:
            self.versions.pop(write.key, None)


class PendingWrite(NamedTuple):
    """A request under way, and whether it is the first that may write its key."""

    key: str
    is_new: bool
