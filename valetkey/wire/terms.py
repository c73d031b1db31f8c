"""What can be asked for: one class a kind, told apart by `kind`. Version 1 of the wire."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_EXPIRES_IN = 604_800  # seconds; AWS: sigv4-query-string-auth.html, X-Amz-Expires
MAX_OBJECT_BYTES = 5 * 1024**3  # bytes in one POST or PUT; AWS: upload-objects.html
MAX_MULTIPART_BYTES = 5 * 1024**4  # bytes; AWS: qfacts.html
MIN_PART_BYTES = 5 * 1024**2  # bytes, but for the last one; AWS: qfacts.html
MAX_PARTS = 10_000

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=2_048)]
Text = Annotated[Line, Field(min_length=1, max_length=200)]
Seconds = Annotated[int, Field(ge=1, le=MAX_EXPIRES_IN)]
ObjectSize = Annotated[int, Field(ge=0, le=MAX_OBJECT_BYTES)]
Kind = Literal["download", "upload", "put", "multipart", "parts"]
Algorithm = Literal["sha256", "crc32", "crc32c", "crc64nvme"]
StorageClass = Literal[
    "STANDARD",
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER",
    "DEEP_ARCHIVE",
    "GLACIER_IR",
]


class WireModel(BaseModel):
    """Strict JSON: unknown fields, numbers as text and fractions for whole numbers are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class Checksum(WireModel):
    """The digest that storage must find, in base64 of the algorithm's own length."""

    algorithm: Algorithm
    value: Line


class Encryption(WireModel):
    """Server-side encryption: with S3's own key, or with a key of KMS, by its ARN."""

    algorithm: Literal["AES256", "aws:kms"]
    key: Line | None = None


class Terms(WireModel):
    """What every kind of grant has in common.

    expires_in is in seconds. A life over the policy is refused, or cut to it where min_expires_in
    says how short is still useful.
    """

    bucket: Name
    expires_in: Seconds
    min_expires_in: Seconds | None = None


class Download(Terms):
    """A presigned GET or HEAD.

    Storage answers with this name and content type, as an attachment unless inline, and with the
    other response headers that are given. check_owner has the client send, and storage check, the
    account that must own the bucket.
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


class StorageTerms(Terms):
    """What every kind has in common that stores an object."""

    content_type: Line = "application/octet-stream"
    acl: Line | None = None
    metadata: dict[Line, Line] = {}
    tags: dict[Line, Line] = {}
    storage_class: StorageClass | None = None
    encryption: Encryption | None = None


class Upload(StorageTerms):
    """A presigned POST form, for a file of min_size to max_size bytes.

    A content type that ends in "/*" lets the client choose within it. Storage answers with
    success_status, or sends the browser to success_redirect.
    """

    kind: Literal["upload"] = "upload"
    max_size: Annotated[int, Field(ge=1, le=MAX_OBJECT_BYTES)]
    min_size: ObjectSize = 0
    success_status: Literal[200, 201, 204] | None = None
    success_redirect: Line | None = None


class Put(StorageTerms):
    """A presigned PUT for a file of exactly the size in bytes that each item brings.

    max_size is the largest of them, and what is reserved for each. Without overwrite, storage
    refuses a second PUT to the same key.
    """

    kind: Literal["put"] = "put"
    max_size: Annotated[int, Field(ge=1, le=MAX_OBJECT_BYTES)]
    overwrite: bool = False
    check_owner: bool = False


class Multipart(StorageTerms):
    """A multipart upload, begun: its id, how to cut the file, and how to complete or abort it.

    The URLs of its parts are asked for by `parts`, as they are needed. part_size in bytes is
    chosen to fit where it is not given.
    """

    kind: Literal["multipart"] = "multipart"
    max_size: Annotated[int, Field(ge=1, le=MAX_MULTIPART_BYTES)]
    part_size: Annotated[int, Field(ge=MIN_PART_BYTES, le=MAX_OBJECT_BYTES)] | None = None


class Parts(Terms):
    """Presigned PUTs of a begun multipart upload's parts, each for exactly its bytes.

    of is the id of the multipart grant; each item names the same key and one part's number.
    """

    kind: Literal["parts"] = "parts"
    of: Text


AnyTerms = Annotated[Download | Upload | Put | Multipart | Parts, Field(discriminator="kind")]
