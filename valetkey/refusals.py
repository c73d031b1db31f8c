"""The closed list of refusals: part of the wire, so a code is added but never renamed or reused."""

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

Window = Literal["hour", "day", "month"]
Metric = Literal["grants", "upload_bytes"]


class Code(StrEnum):
    """Why a batch or an item was refused."""

    MALFORMED = "malformed"
    UNKNOWN_FIELD = "unknown_field"
    VERSION_UNKNOWN = "version_unknown"
    TENANT_UNKNOWN = "tenant_unknown"
    BUCKET_UNKNOWN = "bucket_unknown"
    BUCKET_NOT_ALLOWED = "bucket_not_allowed"
    BUCKET_UNUSABLE = "bucket_unusable"
    KIND_NOT_ALLOWED = "kind_not_allowed"
    KIND_NOT_SUPPORTED = "kind_not_supported"
    CALLBACK_UNKNOWN = "callback_unknown"
    BATCH_TOO_LARGE = "batch_too_large"
    BATCH_CONFLICT = "batch_conflict"
    CHUNK_INVALID = "chunk_invalid"
    DEADLINE_PASSED = "deadline_passed"
    EXPIRY_INVALID = "expiry_invalid"
    EXPIRY_TOO_LONG = "expiry_too_long"
    EXPIRY_TOO_SHORT = "expiry_too_short"
    SIZE_REQUIRED = "size_required"
    SIZE_INVALID = "size_invalid"
    SIZE_TOO_LARGE = "size_too_large"
    CHECKSUM_INVALID = "checksum_invalid"
    CONTENT_TYPE_INVALID = "content_type_invalid"
    CONTENT_TYPE_NOT_ALLOWED = "content_type_not_allowed"
    ACL_NOT_ALLOWED = "acl_not_allowed"
    METADATA_INVALID = "metadata_invalid"
    TAGS_INVALID = "tags_invalid"
    STORAGE_CLASS_NOT_ALLOWED = "storage_class_not_allowed"
    ENCRYPTION_NOT_ALLOWED = "encryption_not_allowed"
    OVERWRITE_NOT_ALLOWED = "overwrite_not_allowed"
    REDIRECT_NOT_ALLOWED = "redirect_not_allowed"
    INLINE_NOT_ALLOWED = "inline_not_allowed"
    OVERRIDE_NOT_ALLOWED = "override_not_allowed"
    OWNER_UNKNOWN = "owner_unknown"
    VERSION_INVALID = "version_invalid"
    PART_INVALID = "part_invalid"
    UPLOAD_UNKNOWN = "upload_unknown"
    FILENAME_INVALID = "filename_invalid"
    KEY_EMPTY = "key_empty"
    KEY_TOO_LONG = "key_too_long"
    KEY_INVALID = "key_invalid"
    KEY_TRAVERSAL = "key_traversal"
    KEY_EMPTY_SEGMENT = "key_empty_segment"
    KEY_BACKSLASH = "key_backslash"
    KEY_CONTROL = "key_control"
    KEY_INVISIBLE = "key_invisible"
    KEY_RESERVED = "key_reserved"
    KEY_OUTSIDE_PREFIX = "key_outside_prefix"
    QUOTA_EXCEEDED = "quota_exceeded"


class QuotaState(BaseModel):
    """Where a quota stood when it refused.

    limit, used and asked count grants or bytes, by metric; the window starts again at resets_at.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: Metric
    window: Window
    limit: int
    used: int
    asked: int
    resets_at: datetime


class Refusal(BaseModel):
    """A decision not to grant: of a whole batch, or of one item (then with its key).

    field is the path of what was refused (`grant.expires_in`, `items[3].key`), limit what it broke.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: Code
    field: str
    message: str
    limit: int | str | list[str] | None = None
    key: str | None = None
    quota: QuotaState | None = None
