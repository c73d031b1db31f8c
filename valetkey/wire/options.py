"""What a request may say, by kind: the keyword arguments of the client's methods."""

from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Literal, Required, TypedDict

from valetkey.wire.terms import Encryption, StorageClass


class Options(TypedDict, total=False):
    """What any request may say.

    expires_in and min_expires_in are seconds, 3,600 and none by default; callback is the name of
    one of the tenant's webhook endpoints; after deadline, which must be aware, an answer is of no
    use: its handle waits for it no longer, and the service refuses.
    """

    expires_in: int
    min_expires_in: int | None
    callback: str | None
    reason: str | None
    deadline: datetime | None


class DownloadOptions(Options, total=False):
    """Options of a download: what storage answers with.

    It is an attachment unless inline. expires is the text of an HTTP date, or an aware datetime.
    With check_owner, the grant has a header that names the account whose bucket it must be.
    """

    method: Literal["GET", "HEAD"]
    filename: str | None
    content_type: str | None
    inline: bool
    cache_control: str | None
    content_language: str | None
    content_encoding: str | None
    expires: str | datetime | None
    check_owner: bool


class StorageOptions(Options, total=False):
    """Options of whatever stores an object: what it will say of itself, and how it is kept."""

    content_type: str | None
    acl: str | None
    metadata: dict[str, str] | None
    tags: dict[str, str] | None
    storage_class: StorageClass | None
    encryption: Encryption | None


class UploadOptions(StorageOptions, total=False):
    """Options of a form: sizes in bytes, and what storage answers once it has the file.

    A content_type that ends in "/*" lets the client choose within it.
    """

    max_size: Required[int]
    min_size: int
    success_status: Literal[200, 201, 204] | None
    success_redirect: str | None


class PutOptions(StorageOptions, total=False):
    """Options of a PUT: max_size in bytes is that of the largest item, unless it is given."""

    max_size: int
    overwrite: bool
    check_owner: bool


class MultipartOptions(StorageOptions, total=False):
    """Options of a multipart upload: part_size in bytes is the service's choice by default."""

    part_size: int | None


def http_date(moment: datetime) -> str:
    """Write an aware moment as HTTP does (RFC 9110, section 5.6.7). Raises ValueError."""
    if moment.tzinfo is None:
        raise ValueError("a date of HTTP is a moment: give it a time zone")
    return format_datetime(moment.astimezone(UTC), usegmt=True)
