"""The terms of a grant: one class for each kind, distinguished by `kind`. Wire version 1.

The limits here are those of S3; a tenant's policy may set lower ones.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

MAX_EXPIRES_IN = 604_800  # seconds; AWS: sigv4-query-string-auth.html, X-Amz-Expires
MAX_OBJECT_BYTES = 5 * 1024**3  # bytes in one POST or PUT; AWS: upload-objects.html
MAX_MULTIPART_BYTES = 5 * 1024**4  # bytes; AWS: qfacts.html
MIN_PART_BYTES = 5 * 1024**2  # bytes, except in the last part; AWS: qfacts.html
MAX_PARTS = 10_000  # parts in one upload; AWS: qfacts.html

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
"""The name of a tenant, a bucket profile or a webhook endpoint."""

NO_CONTROL_CHARACTERS = r"^[^\x00-\x1f\x7f]*$"
Line = Annotated[str, Field(pattern=NO_CONTROL_CHARACTERS, max_length=2_048)]
MAX_TEXT = 200  # characters
Text = Annotated[Line, Field(min_length=1, max_length=MAX_TEXT)]
"""A short text on one line, such as a reason for the audit log."""

Seconds = Annotated[int, Field(ge=1, le=MAX_EXPIRES_IN)]
ObjectSize = Annotated[int, Field(ge=0, le=MAX_OBJECT_BYTES)]
PolicyKind = Literal["download", "upload", "put", "multipart"]
Kind = Literal[PolicyKind, "parts"]  # parts need no permission of their own
Algorithm = Literal["sha256", "crc32", "crc32c", "crc64nvme"]
StorageClass = Literal[
    "STANDARD", "REDUCED_REDUNDANCY", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING",
    "GLACIER", "DEEP_ARCHIVE", "GLACIER_IR",
]  # fmt: skip


class WireModel(BaseModel):
    """The base class of messages and terms. Reads JSON strictly.

    Refuses unknown fields, numbers written as strings, and fractions in place of whole numbers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class ReplyModel(WireModel):
    """The base class of replies. Ignores unknown fields, because a newer service may add some.

    A list of known values, such as the codes, is open: an unknown value is kept as text.
    """

    model_config = ConfigDict(extra="ignore")


class Checksum(WireModel):
    """The checksum that storage compares with the object it receives.

    algorithm: the algorithm that computed the digest.
    value: the digest in base64. A sha256 has 32 bytes, a crc32 or crc32c 4, a crc64nvme 8.
    """

    algorithm: Algorithm
    value: Line


class Encryption(WireModel):
    """Server-side encryption of the stored object.

    algorithm: `AES256` for a key that S3 manages, `aws:kms` for a key in AWS KMS.
    key: the ARN of the KMS key. Required with `aws:kms`, not allowed with `AES256`.
    """

    algorithm: Literal["AES256", "aws:kms"]
    key: Line | None = None


class Terms(WireModel):
    """The terms common to all kinds of grant.

    bucket: the name of a bucket profile, not of the bucket in storage.
    expires_in: the lifetime of the grant in seconds, from 1 to 604,800 (7 days).
    min_expires_in: the shortest useful lifetime in seconds. With it, the service shortens a grant
    to the policy's maximum; without it, the service refuses an expires_in over that maximum. The
    provider's maximum and the signing credentials can shorten any grant. A grant that would be
    shorter than min_expires_in is refused.
    """

    bucket: Name
    expires_in: Seconds
    min_expires_in: Seconds | None = None


class Download(Terms):
    """A presigned GET or HEAD.

    method: the HTTP method of the grant.
    filename: the file name in the response's Content-Disposition.
    inline: if false, browsers save the file (`attachment`); if true, they may display it.
    content_type, cache_control, content_language, content_encoding, expires: the values of these
    response headers; expires is an HTTP date (RFC 9110, section 5.6.7).
    check_owner: adds a header to the grant that names the account of the bucket profile; storage
    then rejects the request if another account owns the bucket.
    plain: if true, the URL is the one that boto3 signs for the key alone. It sets no response
    headers and has no grant id. Browsers may display the object, with the type that is stored.
    """

    kind: Literal["download"] = "download"
    method: Literal["GET", "HEAD"] = "GET"
    filename: Line | None = None
    content_type: Line | None = None
    inline: bool = False
    cache_control: Line | None = None
    content_language: Line | None = None
    content_encoding: Line | None = None
    expires: Line | None = None
    check_owner: bool = False
    plain: bool = False


class StorageTerms(Terms):
    """The terms common to all kinds that store an object.

    content_type: the object's type, as type/subtype in lower case.
    acl: a canned ACL.
    metadata: names and values of the object's user metadata, at most 1,997 bytes together: with the
    grant id, which the service adds, they are the 2,048 bytes that S3 accepts.
    tags: names and values of the object's tags, at most 10.
    storage_class, encryption: as in S3; None for the default of storage.
    """

    content_type: Line = "application/octet-stream"
    acl: Line | None = None
    metadata: dict[Line, Line] = {}
    tags: dict[Line, Line] = {}
    storage_class: StorageClass | None = None
    encryption: Encryption | None = None


class Upload(StorageTerms):
    """A presigned POST form.

    max_size, min_size: the largest and smallest size in bytes that storage accepts.
    content_type: may end in "/*"; the client that uploads then chooses the subtype.
    success_status: the status code with which storage responds to a successful upload.
    success_redirect: the URL to which storage redirects the browser after a successful upload: an
    https:// URL without a user, a fragment and dot segments.
    """

    kind: Literal["upload"] = "upload"
    max_size: Annotated[int, Field(ge=1, le=MAX_OBJECT_BYTES)]
    min_size: ObjectSize = 0
    success_status: Literal[200, 201, 204] | None = None
    success_redirect: Line | None = None


class Put(StorageTerms):
    """A presigned PUT of exactly the number of bytes in each item's size.

    max_size: the largest size of any item in bytes. The service reserves this much of the quota
    for each item that it has not decided yet.
    overwrite: if false, storage rejects the PUT when the key already has an object.
    check_owner: as for a download.
    """

    kind: Literal["put"] = "put"
    max_size: Annotated[int, Field(ge=1, le=MAX_OBJECT_BYTES)]
    overwrite: bool = False
    check_owner: bool = False


class Multipart(StorageTerms):
    """A multipart upload, which the service creates in storage.

    The grant completes the upload; its MultipartInfo has the plan of the parts and the URL that
    aborts the upload. Request the URLs of the parts with grants of kind `parts`, as needed.

    max_size: the largest size of any item in bytes, up to 5 TiB.
    part_size: the size of each part except the last, in bytes, from 5 MiB to 5 GiB. By default, the
    service chooses one that fits the item's size.
    """

    kind: Literal["multipart"] = "multipart"
    max_size: Annotated[int, Field(ge=1, le=MAX_MULTIPART_BYTES)]
    part_size: Annotated[int, Field(ge=MIN_PART_BYTES, le=MAX_OBJECT_BYTES)] | None = None


class Parts(Terms):
    """Presigned PUTs for parts of a multipart upload, each for exactly the part's size.

    of: the id of the multipart grant. Every item has the key of that grant and one part number.
    """

    kind: Literal["parts"] = "parts"
    of: Text


_Terms = Download | Upload | Put | Multipart | Parts
AnyTerms = Annotated[_Terms, Field(discriminator="kind")]

TERMS_BY_KIND: Mapping[Kind, type[Terms]] = {
    terms.model_fields["kind"].default: terms for terms in get_args(_Terms)
}
