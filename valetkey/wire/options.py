"""The options of each kind of request: the keyword arguments of the client's methods."""

from collections.abc import Callable, Collection
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Annotated, Literal, Required, TypedDict
from uuid import UUID

from valetkey.arguments import NOT_NEGATIVE, Moment, Rule
from valetkey.wire.events import UploadEventType
from valetkey.wire.grant_ids import is_batch_id
from valetkey.wire.terms import Encryption, StorageClass

BatchIdOption = Annotated[
    str | UUID,
    Rule("a UUIDv7 in lower case, as new_id() returns", lambda value: is_batch_id(str(value))),
]


class RequestOptions(TypedDict, total=False):
    """Options of every request.

    expires_in: the lifetime of the grants in seconds; 3,600 by default.
    min_expires_in: the shortest useful lifetime in seconds. With it, the service shortens a
    lifetime over the policy's maximum; without it, the service refuses it.
    callback: the name of one of the tenant's webhook endpoints; it also receives the outcome.
    reason: text for the audit log, at most 200 characters.
    recipient: the person or system that the grants are for, recorded in the audit log, at most 200
    characters.
    requested_by: the requester's name for the audit log, in place of the client's.
    deadline: an aware datetime. After it, the handle stops waiting and the service refuses.
    batch_id: a UUIDv7 that you create with new_id(). With it, any process can repeat the request
    after a crash, with the same options: what was granted is granted again, and charged once.
    """

    expires_in: int
    min_expires_in: int | None
    callback: str | None
    reason: str | None
    recipient: str | None
    requested_by: str | None
    deadline: Moment | None
    batch_id: BatchIdOption | None


class ReissueOptions(TypedDict, total=False):
    """Options of a request for a fresh grant, as in RequestOptions.

    expires_in: by default that which was requested for the earlier grant.
    """

    expires_in: int | None
    reason: str | None
    recipient: str | None
    requested_by: str | None


class BatchOptions(TypedDict, total=False):
    """Options of a request for many grants.

    total: the number of items; without it, items without a length are read into a list first. The
    batch is admitted, or refused for a quota, as a whole.
    chunk_size: the number of items in one message.
    first_chunk: with batch_id, to continue an interrupted batch: pass the same total, chunk_size
    and other options, and the items from this chunk on. A batch grants nothing new once it is a day
    old, or as old as the shortest window (minute or hour) of the tenant's quotas.
    manifest: an object key in the same bucket, for very large batches: the service writes all item
    results to that file. The handle then yields only refusals of the whole batch; see its
    manifest().
    progress: a function that is called with the numbers of decided items and of all items whenever
    results have arrived.
    """

    total: Annotated[int, NOT_NEGATIVE] | None
    chunk_size: int
    first_chunk: int
    manifest: str | None
    progress: Callable[[int, int], object] | None


class DownloadOptions(RequestOptions, total=False):
    """Options of a download. Most of them set headers of storage's response.

    method: GET by default.
    filename: the name in Content-Disposition, under which browsers save the file.
    inline: if true, browsers may display the file instead of saving it.
    expires: the Expires header, as an aware datetime or as the text of an HTTP date.
    check_owner: adds a request header that names the account that must own the bucket.
    plain: if true, the link has neither response headers nor a grant id, if the policy allows it.
    """

    method: Literal["GET", "HEAD"]
    filename: str | None
    content_type: str | None
    inline: bool
    cache_control: str | None
    content_language: str | None
    content_encoding: str | None
    expires: str | Moment | None
    check_owner: bool
    plain: bool


class ObjectOptions(RequestOptions, total=False):
    """Options of every request that stores an object.

    notify: with callback; the types of webhooks about its uploads that the endpoint also receives:
    "upload.stored", "upload.unused" and "upload.mismatched".
    """

    notify: Collection[UploadEventType] | None
    content_type: str | None
    acl: str | None
    metadata: dict[str, str] | None
    tags: dict[str, str] | None
    storage_class: StorageClass | None
    encryption: Encryption | None


class UploadOptions(ObjectOptions, total=False):
    """Options of a POST form.

    max_size, min_size: the accepted size in bytes; min_size is 0 by default.
    content_type: may end in "/*"; the client that uploads then chooses the subtype.
    success_status: the status code of storage's response to a successful upload.
    success_redirect: the URL to which storage redirects the browser after a successful upload.
    """

    max_size: Required[int]
    min_size: int
    success_status: Literal[200, 201, 204] | None
    success_redirect: str | None


class PutOptions(ObjectOptions, total=False):
    """Options of a PUT.

    max_size: the largest accepted size in bytes; by default, that of the largest item.
    overwrite: if false, the default, storage rejects the PUT when the key already has an object.
    check_owner: adds a request header that names the account that must own the bucket.
    """

    max_size: int
    overwrite: bool
    check_owner: bool


class DownloadManyOptions(DownloadOptions, BatchOptions, total=False):
    """Options of many downloads."""


class UploadManyOptions(UploadOptions, BatchOptions, total=False):
    """Options of many POST forms."""


class PutManyOptions(PutOptions, BatchOptions, total=False):
    """Options of many PUTs."""


class MultipartOptions(ObjectOptions, total=False):
    """Options of a multipart upload.

    part_size: bytes in each part except the last; by default, the service chooses it.
    """

    part_size: int | None


def http_date(moment: datetime) -> str:
    """Format an aware datetime as an HTTP date (RFC 9110, section 5.6.7).

    Raises ValueError if it has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError("an HTTP date needs a datetime with a time zone: set its tzinfo")
    return format_datetime(moment.astimezone(UTC), usegmt=True)
