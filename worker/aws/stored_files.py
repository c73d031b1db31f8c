"""Looks for an object in storage: one HEAD, which tells the grant that stored it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from http import HTTPStatus
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.utils import parse_timestamp

from worker.aws.storage_calls import send_request
from worker.core.policy.error_responses import ErrorResponse
from worker.core.signing.sigv4 import PROBE_KEY, Credentials, Target, read_target
from worker.core.tenants.config import Bucket
from worker.core.uses.reports import MAX_AHEAD, MAX_SIZE, is_storable
from worker.errors import Transient

_ALGORITHMS = ("sha256", "crc32", "crc32c", "crc64nvme")
_NO_VERSION = "null"  # of an object that was stored without versioning
_MAX_TEXT = 1_024  # characters of a header

Missing = Literal["absent", "hidden"]
"""The reasons for which storage shows no object.

absent: there is none. hidden: the credentials may not read it, or there is none and they may not
list the bucket. AWS: API_HeadObject.html.
"""


class StorageRefuses(Transient):
    """Storage does not tell of an object, and may not until something changes.

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
    """Looks for objects in one bucket, with the HTTP session and the credentials of a boto3 client.

    The requests are those of boto3's `head_object`, signed by botocore. What boto3 does around
    them takes three times as long as sending and signing. Threads may share it.
    """

    def __init__(self, client: Any, bucket: Bucket, credentials: Credentials) -> None:
        self._client, self._bucket = client, bucket
        self._keys = ReadOnlyCredentials(
            credentials.access_key, credentials.secret_key, credentials.token
        )
        self._headers = {"x-amz-checksum-mode": "ENABLED"}
        if bucket.owner:
            self._headers["x-amz-expected-bucket-owner"] = bucket.owner

    def find(self, object_key: str, version: str | None = None) -> StoredFile | Missing:
        """Return the object of a key, or why there is none to see. Raises Transient."""
        query = "" if version is None else f"?versionId={quote(version, safe='')}"
        request = AWSRequest("HEAD", f"{self._address}{quote(object_key)}{query}", self._headers)
        self._auth.add_auth(request)
        response = send_request(self._client, request)
        match response.status_code:
            case HTTPStatus.OK:
                return _file(response.headers)
            case HTTPStatus.NOT_FOUND:
                return "absent"
            case HTTPStatus.FORBIDDEN:
                return "hidden"
        answer = ErrorResponse(response.status_code)
        if answer.is_transient:
            raise Transient(f"storage cannot do it now: {answer.words}", "storage")
        raise StorageRefuses(f"storage does not tell of an object: {answer.words}", "storage")

    @cached_property
    def _address(self) -> str:
        """The URL of the object key "", which boto3 makes of endpoint and addressing."""
        return f"{self._target.scheme}://{self._target.host}{self._target.prefix}"

    @cached_property
    def _auth(self) -> S3SigV4Auth:
        return S3SigV4Auth(self._keys, self._target.service, self._target.region)

    @cached_property
    def _target(self) -> Target:
        params = {"Bucket": self._bucket.bucket, "Key": PROBE_KEY}
        return read_target(self._client.generate_presigned_url("head_object", Params=params))


def _file(headers: Mapping[str, str]) -> StoredFile:
    version = headers.get("x-amz-version-id")
    try:
        file = StoredFile(
            grant_id=headers.get("x-amz-meta-grant-id") or None,
            size=int(headers["Content-Length"]),
            etag=headers.get("ETag", "").strip('"'),
            version=None if version == _NO_VERSION else version,
            checksum=_checksum(headers),
            content_type=headers.get("Content-Type"),
            modified_at=_time(headers["Last-Modified"]),
        )
    except (KeyError, ValueError, ArithmeticError, RuntimeError):
        file = None
    if file is None or not _is_credible(file):
        raise StorageRefuses("storage tells nonsense of an object", "storage")
    return file


def _time(text: str) -> datetime:
    """Return the time of a header. boto3's parser understands more, and takes ten times as long."""
    try:
        return parsedate_to_datetime(text).astimezone(UTC)  # RFC 9110, section 5.6.7
    except ValueError:
        other: datetime = parse_timestamp(text)
        return other.astimezone(UTC)


def _is_credible(file: StoredFile) -> bool:
    """Return true if what storage tells can be true, and the database can store it."""
    texts = (value for value in file if isinstance(value, str))
    return (
        0 <= file.size <= MAX_SIZE
        and file.modified_at <= datetime.now(UTC) + MAX_AHEAD
        and all(len(text) <= _MAX_TEXT and is_storable(text) for text in texts)
    )


def _checksum(headers: Mapping[str, str]) -> str | None:
    for algorithm in _ALGORITHMS:
        value = headers.get(f"x-amz-checksum-{algorithm}")
        # A composite one, VALUE-COUNT, is over the checksums of the parts.
        if value is not None and "-" not in value:
            return f"{algorithm}:{value}"
    return None
