"""Calls about objects in storage: finds, stores and lists them, and ends multipart uploads."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from worker.aws.storage_calls import call_storage
from worker.errors import Transient
from worker.rules.storage_errors import UNREADABLE, ErrorResponse

is_upload_id = re.compile(r"[!-~]{1,1024}").fullmatch
"""S3 promises no form of an id. It is in two URLs and two rows of its item, so it is bounded."""

ENDED = frozenset({"NoSuchUpload", "NoSuchBucket"})  # without its bucket, no upload exists


class CreatedUpload(NamedTuple):
    """A multipart upload that storage has created.

    is_only is false if the call was repeated: an earlier answer may have been lost, and with it the
    id of another upload.
    """

    upload_id: str
    is_only: bool


def start_upload(
    client: Any, bucket: str, object_key: str, params: Mapping[str, Any]
) -> CreatedUpload | ErrorResponse:
    """Start a multipart upload; return storage's answer if it refuses. Raises Transient."""
    response = call_storage(client.create_multipart_upload, Bucket=bucket, Key=object_key, **params)
    if isinstance(response, ErrorResponse):
        return response
    upload_id = response.get("UploadId")
    if not isinstance(upload_id, str) or not is_upload_id(upload_id):
        return UNREADABLE
    return CreatedUpload(upload_id, response["ResponseMetadata"].get("RetryAttempts") == 0)


def abort_upload(client: Any, bucket: str, object_key: str, upload_id: str) -> None:
    """Abort a multipart upload; one that was completed or aborted before is not an error.

    Raises Transient, also if storage refuses: the reason may be repaired before the next attempt.
    """
    response = call_storage(
        client.abort_multipart_upload, Bucket=bucket, Key=object_key, UploadId=upload_id
    )
    if isinstance(response, ErrorResponse) and response.code not in ENDED:
        raise Transient(f"storage aborts no upload: {response.words}")
