"""The objects and uploads that live checks may have left in storage, and their deletion."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import unquote

from worker.aws.clients import S3Clients
from worker.aws.credentials import CredentialCache
from worker.core.kinds.role_session import role_session
from worker.core.signing.sigv4 import Credentials, Target
from worker.core.signing.validity import Validity
from worker.core.tenants.config import Bucket
from worker.errors import Malformed, Transient
from worker.net.storage_requests import StorageRequest, StorageResponse
from worker.usecases.live_checks.findings import describe_answer

MAX_SECONDS = 15.0
"""The time in seconds that the deletion takes at most, beside the request that is under way."""

DELETE_ACTIONS = ("s3:AbortMultipartUpload", "s3:DeleteObject", "s3:DeleteObjectVersion")
_VERSION = "x-amz-version-id"


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
        version = response.headers.get(_VERSION)
        if response.is_success and version:
            self.versions[write.key].add(version)
        is_refusal = HTTPStatus.BAD_REQUEST <= response.status < HTTPStatus.INTERNAL_SERVER_ERROR
        if is_refusal and write.is_new:
            self.versions.pop(write.key, None)


class PendingWrite(NamedTuple):
    """A request under way, and whether it is the first that may write its key."""

    key: str
    is_new: bool


class Deleter:
    """Deletes leftovers with the credentials of a bucket profile, or a session of its role.

    The session is another one than that which signs: that one may delete nothing.
    """

    def __init__(
        self,
        s3: S3Clients,
        credentials: CredentialCache,
        bucket: Bucket,
        prefix: str,
        now: Callable[[], datetime],
    ) -> None:
        self._s3 = s3
        self._credentials = credentials
        self._bucket = bucket
        self._prefix = prefix
        self._now = now

    def delete(
        self,
        leftovers: Leftovers,
        send: Callable[[StorageRequest], StorageResponse],
        clock: Callable[[], float] = time.monotonic,
    ) -> Iterator[str]:
        """Delete everything. Yield a line for each object or upload that could not be deleted."""
        deadline = clock() + MAX_SECONDS
        for key, versions in tuple(leftovers.versions.items()):
            for query in [{"versionId": version} for version in versions] or [{}]:
                problem = self._attempt(send, key, query, deadline, clock)
                if problem:
                    yield f"{key}: {problem}"
        for upload_id, key in tuple(leftovers.uploads.items()):
            problem = self._attempt(send, key, {"uploadId": upload_id}, deadline, clock)
            if problem:
                yield f"an upload of {key}: {problem}"
        for key in leftovers.unknown_uploads:
            yield f"an upload of {key}: storage never said whether it started one"

    def _attempt(
        self,
        send: Callable[[StorageRequest], StorageResponse],
        key: str,
        query: Mapping[str, str],
        deadline: float,
        clock: Callable[[], float],
    ) -> str | None:
        if clock() > deadline:
            return "not tried, because storage took too long"
        try:
            response = send(self._request(key, query))
            version = response.headers.get(_VERSION)
            if version and "versionId" not in query and "uploadId" not in query:
                # In a versioned bucket, this has only added a delete marker.
                response = send(self._request(key, {"versionId": version}))
        except (Malformed, Transient) as error:
            return str(error)
        is_gone = response.is_success or response.status == HTTPStatus.NOT_FOUND
        return None if is_gone else describe_answer(response)

    def _request(self, key: str, query: Mapping[str, str]) -> StorageRequest:
        now = self._now()
        validity = Validity(now.replace(microsecond=0), 300, "request")
        context = self._s3.signing_context(self._bucket, self._load_credentials(now), validity)
        return StorageRequest("DELETE", context.signer_for("DELETE").sign(key, query).url)

    def _load_credentials(self, now: datetime) -> Credentials:
        session, role = None, self._bucket.role_arn
        if role is not None:
            session = role_session(role, self._bucket, "doctor-delete", (self._prefix,))
            policy = json.loads(session.policy)
            policy["Statement"][0]["Action"] = DELETE_ACTIONS
            session = replace(session, policy=json.dumps(policy, separators=(",", ":")))
        profile = self._bucket.profile
        return self._credentials.get(profile, session, now, timedelta(minutes=5))
