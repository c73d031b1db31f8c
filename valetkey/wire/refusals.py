"""The closed list of refusals: part of the wire, so a code is added but never renamed or reused."""

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

Window = Literal["minute", "hour", "day", "month", "live"]
Metric = Literal["grants", "download_grants", "upload_bytes"]


class Code(StrEnum):
    """Why a batch or an item was refused."""

    MALFORMED = "malformed"
    UNKNOWN_FIELD = "unknown_field"
    VERSION_UNKNOWN = "version_unknown"
    TOKEN_INVALID = "token_invalid"  # noqa: S105 - a code, and no secret
    TOKEN_TOO_LARGE = "token_too_large"  # noqa: S105 - as above
    ALGORITHM_NOT_ALLOWED = "algorithm_not_allowed"
    SIGNATURE_REQUIRED = "signature_required"
    SIGNATURE_INVALID = "signature_invalid"
    KEY_UNKNOWN = "key_unknown"
    KEY_EXPIRED = "key_expired"
    KEY_REVOKED = "key_revoked"
    CLAIM_MISSING = "claim_missing"
    MESSAGE_EXPIRED = "message_expired"
    MESSAGE_FROM_FUTURE = "message_from_future"
    TENANT_MISMATCH = "tenant_mismatch"
    TENANT_UNKNOWN = "tenant_unknown"
    BUCKET_UNKNOWN = "bucket_unknown"
    BUCKET_NOT_ALLOWED = "bucket_not_allowed"
    BUCKET_UNUSABLE = "bucket_unusable"
    KIND_NOT_ALLOWED = "kind_not_allowed"
    KIND_NOT_SUPPORTED = "kind_not_supported"
    CALLBACK_UNKNOWN = "callback_unknown"
    BATCH_TOO_LARGE = "batch_too_large"
    BATCH_CONFLICT = "batch_conflict"
    BATCH_CLOSED = "batch_closed"
    BATCH_UNKNOWN = "batch_unknown"
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
    MANIFEST_NOT_ALLOWED = "manifest_not_allowed"
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
    """Where a quota stands, in grants or bytes by metric.

    The window live has what was granted and has not lapsed; the others are of UTC and start again
    at resets_at. asked is there where it was refused, warn_at where there is a soft limit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: Metric
    window: Window
    limit: int
    used: int
    asked: int | None = None
    warn_at: int | None = None
    resets_at: datetime | None = None

    @property
    def left(self) -> int:
        """What may still be granted."""
        return max(self.limit - self.used, 0)

    @property
    def warns(self) -> bool:
        """Whether the soft limit is reached."""
        return self.warn_at is not None and self.used >= self.warn_at


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


# What is refused before anyone is known to have asked: such an answer is sealed to nobody.
UNAUTHENTICATED = frozenset(
    {
        Code.TOKEN_INVALID,
        Code.TOKEN_TOO_LARGE,
        Code.ALGORITHM_NOT_ALLOWED,
        Code.SIGNATURE_REQUIRED,
        Code.SIGNATURE_INVALID,
        Code.KEY_UNKNOWN,
        Code.KEY_EXPIRED,
        Code.KEY_REVOKED,
        Code.CLAIM_MISSING,
        Code.MESSAGE_EXPIRED,
        Code.MESSAGE_FROM_FUTURE,
        Code.TENANT_MISMATCH,
        Code.TENANT_UNKNOWN,
    }
)
