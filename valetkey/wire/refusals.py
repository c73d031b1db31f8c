"""The refusal codes and the refusal object. Wire version 1.

The list of codes is part of the wire: a code is never removed, renamed or reused. A later service
may send codes, metrics and windows that are not in these lists: clients keep them as text.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Window = Literal["minute", "hour", "day", "month", "live"]
Metric = Literal["grants", "download_grants", "upload_bytes", "stored_bytes"]

_IN_ORDER = Field(union_mode="left_to_right")  # text only if it is none of the known values
# Refusals and quotas are also read outside of replies, from rows and files, and so are not strict.
_TOLERANT = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class Code(StrEnum):
    """The reason for refusing a batch or an item.

    A refusal's field names the part of the message; its limit is what would have been allowed.
    """

    # The message cannot be read.
    MALFORMED = "malformed"  # not JSON of this version, or a field has the wrong type or form
    UNKNOWN_FIELD = "unknown_field"  # a field that does not exist, or not for this kind
    MESSAGE_INVALID = "message_invalid"  # not a Celery message that the service accepts
    VERSION_UNKNOWN = "version_unknown"  # v is not a version that the service reads

    FEATURE_MISSING = "feature_missing"  # the service runs without what the field asks for

    # The sender is not authenticated. See UNAUTHENTICATED below.
    TOKEN_INVALID = "token_invalid"  # noqa: S105 - a code, not a secret; not a compact JWS
    TOKEN_TOO_LARGE = "token_too_large"  # noqa: S105 - a code, not a secret; over 4 MiB
    ALGORITHM_NOT_ALLOWED = "algorithm_not_allowed"  # alg is not Ed25519 or EdDSA
    SIGNATURE_REQUIRED = "signature_required"  # no tenant of this name accepts unsigned messages
    SIGNATURE_INVALID = "signature_invalid"  # not signed by a key of the id in kid
    KEY_UNKNOWN = "key_unknown"  # counted only: signature_invalid is sent
    KEY_EXPIRED = "key_expired"  # the key, which did sign the message, has expired
    KEY_REVOKED = "key_revoked"  # the key, which did sign the message, is revoked
    CLAIM_MISSING = "claim_missing"  # iat is missing or not in whole seconds
    MESSAGE_EXPIRED = "message_expired"  # iat is over 24 hours ago, or before the tenant existed
    MESSAGE_FROM_FUTURE = "message_from_future"  # iat is more than 60 seconds ahead
    TENANT_MISMATCH = "tenant_mismatch"  # the message names another tenant than its signing key
    TENANT_UNKNOWN = "tenant_unknown"  # counted only: signature_required is sent

    # The batch: its bucket profile, kind, size, callback and state.
    BUCKET_NOT_ALLOWED = "bucket_not_allowed"  # the tenant has no policy for this bucket profile
    BUCKET_UNUSABLE = "bucket_unusable"  # the service cannot sign for it; an operator must fix it
    KIND_NOT_ALLOWED = "kind_not_allowed"  # unknown kind, or not in the tenant's policy
    KIND_NOT_SUPPORTED = "kind_not_supported"  # the storage provider does not have this kind
    CALLBACK_UNKNOWN = "callback_unknown"  # callback names no webhook endpoint allowed here
    NOTIFY_NOT_ALLOWED = "notify_not_allowed"  # without callback, or for a kind that stores nothing
    BATCH_TOO_LARGE = "batch_too_large"  # too many items in the batch or in one message
    BATCH_CONFLICT = "batch_conflict"  # the batch id was used before with different content
    BATCH_CLOSED = "batch_closed"  # cancelled, or began longer ago than a day or a quota's window
    REVOKED = "revoked"  # an operator has revoked the grant: it is not signed again
    BATCH_UNKNOWN = "batch_unknown"  # the service has received no such batch or chunk
    GRANT_UNKNOWN = "grant_unknown"  # the tenant has no such grant, or the batch no such item
    REISSUE_NOT_ALLOWED = "reissue_not_allowed"  # refused before, or of a kind that cannot be
    CHUNK_INVALID = "chunk_invalid"  # chunk, chunk_size, total and items do not agree
    DEADLINE_PASSED = "deadline_passed"  # the message arrived after its deadline

    TOO_MANY_LISTENERS = "too_many_listeners"  # the tenant has as many as the limit

    # The terms of the grant.
    EXPIRY_INVALID = "expiry_invalid"  # not 1 to 604,800 seconds, or min_expires_in is larger
    EXPIRY_TOO_LONG = "expiry_too_long"  # over the maximum of the tenant's policy
    EXPIRY_TOO_SHORT = "expiry_too_short"  # the grant would end before min_expires_in
    SIZE_REQUIRED = "size_required"  # max_size, or an item's size, is missing
    SIZE_INVALID = "size_invalid"  # a size is out of range
    SIZE_TOO_LARGE = "size_too_large"  # over the tenant's policy, or over max_size
    CHECKSUM_INVALID = "checksum_invalid"  # not base64 of the algorithm's length
    CONTENT_TYPE_INVALID = "content_type_invalid"  # not type/subtype in lower case
    CONTENT_TYPE_NOT_ALLOWED = "content_type_not_allowed"  # not in the tenant's policy
    ACL_NOT_ALLOWED = "acl_not_allowed"  # not in the tenant's policy
    METADATA_INVALID = "metadata_invalid"  # a name or value S3 would alter, or over 1,997 bytes
    TAGS_INVALID = "tags_invalid"  # more than 10 tags, or a tag that S3 does not accept
    STORAGE_CLASS_NOT_ALLOWED = "storage_class_not_allowed"  # not in the tenant's policy
    ENCRYPTION_NOT_ALLOWED = "encryption_not_allowed"  # not in the policy, or its key does not fit
    OVERWRITE_NOT_ALLOWED = "overwrite_not_allowed"  # not in the tenant's policy
    REDIRECT_NOT_ALLOWED = "redirect_not_allowed"  # not in the tenant's policy
    INLINE_NOT_ALLOWED = "inline_not_allowed"  # this content type may only be downloaded
    PLAIN_NOT_ALLOWED = "plain_not_allowed"  # a link without response headers and grant id
    MANIFEST_NOT_ALLOWED = "manifest_not_allowed"  # not for this kind, or the tenant may not upload
    OVERRIDE_NOT_ALLOWED = "override_not_allowed"  # a response header that may not be set so
    OWNER_UNKNOWN = "owner_unknown"  # check_owner is set, but the bucket profile has no owner
    VERSION_INVALID = "version_invalid"  # version_id is not a version id of S3
    PART_INVALID = "part_invalid"  # no such part, or more than 10,000 parts
    UPLOAD_UNKNOWN = "upload_unknown"  # of names no open multipart upload of the tenant
    STORAGE_REFUSED = "storage_refused"  # storage's own answer, for which there is no other code
    FILENAME_INVALID = "filename_invalid"  # clients would not save under exactly this name

    # The object key, of an item or of the manifest.
    KEY_EMPTY = "key_empty"  # has no characters
    KEY_TOO_LONG = "key_too_long"  # over 1,024 bytes of UTF-8
    KEY_INVALID = "key_invalid"  # not a string, or not encodable as UTF-8
    KEY_TRAVERSAL = "key_traversal"  # has a segment "." or "..", percent-encoded or not
    KEY_EMPTY_SEGMENT = "key_empty_segment"  # a slash at either end, or two in a row
    KEY_BACKSLASH = "key_backslash"  # has a backslash
    KEY_CONTROL = "key_control"  # has control characters
    KEY_INVISIBLE = "key_invisible"  # has invisible or direction-changing characters
    KEY_RESERVED = "key_reserved"  # contains ${filename}
    KEY_OUTSIDE_PREFIX = "key_outside_prefix"  # outside the prefixes of the tenant's policy

    QUOTA_EXCEEDED = "quota_exceeded"  # the refusal's quota says which quota and when it resets


class QuotaState(BaseModel):
    """The state of one of the tenant's quotas.

    metric: the unit of limit, used, asked and warn_at. `upload_bytes` counts bytes that may be
    uploaded, `stored_bytes` those of stored objects, `download_grants` grants of kind download, and
    `grants` grants of every kind except parts. `uncharged_bytes`, which only refusals name, counts
    what the service records of the tenant's requests without a charge.
    window: the period that is counted, in UTC. `live` counts the grants that have not expired,
    the bytes of upload slots until they are settled, and what is stored now.
    limit: the maximum in one window.
    used: the amount that is charged or reserved now.
    asked: in a refusal for this quota only; the amount that the batch would have added.
    warn_at: the soft limit, if the quota has one.
    resets_at: the end of the current window; None for `live`.
    """

    model_config = _TOLERANT

    metric: Annotated[Metric | str, _IN_ORDER]
    window: Annotated[Window | str, _IN_ORDER]
    limit: int
    used: int
    asked: int | None = None
    warn_at: int | None = None
    resets_at: datetime | None = None

    @property
    def left(self) -> int:
        """The amount that can still be granted in this window; never negative."""
        return max(self.limit - self.used, 0)

    @property
    def warns(self) -> bool:
        """True if the quota has a soft limit and used has reached it."""
        return self.warn_at is not None and self.used >= self.warn_at


class Refusal(BaseModel):
    """A decision not to grant a whole batch or one item.

    code: the reason, for programs. A Code, or the text of a code that a later service has.
    field: the path of the refused field, like `grant.expires_in` or `items[3].key`. Empty if the
    whole message is refused.
    message: the reason, for people. Its wording may change.
    limit: the maximum, minimum or allowed values, if the rule has any.
    key: the object key of the refused item; None if the whole batch is refused.
    quota: the exceeded quota, if code is `quota_exceeded`.
    ref: the producer's own reference of the refused item, if it has one.
    """

    model_config = _TOLERANT

    code: Annotated[Code | str, _IN_ORDER]
    field: str
    message: str
    limit: int | str | list[str] | None = None
    key: str | None = None
    quota: QuotaState | None = None
    ref: str | None = None


# The service has not authenticated the sender, so it knows no key to encrypt the reply to: replies
# with these codes are plain JSON.
UNAUTHENTICATED = frozenset({
    Code.MESSAGE_INVALID, Code.TOKEN_INVALID, Code.TOKEN_TOO_LARGE, Code.ALGORITHM_NOT_ALLOWED,
    Code.SIGNATURE_REQUIRED, Code.SIGNATURE_INVALID, Code.KEY_UNKNOWN, Code.KEY_EXPIRED,
    Code.KEY_REVOKED, Code.CLAIM_MISSING, Code.MESSAGE_EXPIRED, Code.MESSAGE_FROM_FUTURE,
    Code.TENANT_MISMATCH, Code.TENANT_UNKNOWN,
})  # fmt: skip
