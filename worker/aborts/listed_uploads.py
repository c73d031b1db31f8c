"""Lists the unfinished multipart uploads of an object key."""

from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

from worker.aws.object_calls import ENDED, is_upload_id
from worker.aws.storage_calls import call_storage
from worker.errors import Transient
from worker.rules.storage_errors import ErrorResponse

MAX_LISTINGS = 10
"""The largest number of pages, of 1,000 uploads each, that are read of one listing."""


class ListedUpload(NamedTuple):
    """A multipart upload in a listing; created_at is None if storage does not report it."""

    upload_id: str
    created_at: datetime | None


def list_uploads(client: Any, bucket: str, object_key: str) -> list[ListedUpload]:
    """List the unfinished multipart uploads of one object key.

    Reads at most MAX_LISTINGS pages: the keys that begin with this one are in the same listing.
    Raises Transient, also if storage refuses, as abort_upload does.
    """
    pages = client.get_paginator("list_multipart_uploads").paginate(
        Bucket=bucket, Prefix=object_key
    )
    listing: Any = call_storage(lambda: list(islice(pages, MAX_LISTINGS)))
    if isinstance(listing, ErrorResponse):
        if listing.code in ENDED:
            return []
        raise Transient(f"storage lists no uploads: {listing.words}")
    uploads: dict[str, ListedUpload] = {}
    for values in (values for page in listing for values in page.get("Uploads", [])):
        if values.get("Key") == object_key and is_upload_id(values.get("UploadId") or ""):
            moment = values.get("Initiated")
            created_at = moment.astimezone(UTC) if isinstance(moment, datetime) else None
            uploads[values["UploadId"]] = ListedUpload(values["UploadId"], created_at)
    return list(uploads.values())
