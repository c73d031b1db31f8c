"""Errors that storage answers: which of them no retry changes, and the refusals that they become.

Storage is not trusted to answer sensibly: code and message may be anything. Sources: AWS, "Error
responses" (ErrorResponses.html), and the error codes of SeaweedFS, MinIO and Ceph.
"""

import re
from typing import NamedTuple

from valetkey.wire.refusals import Code, Refusal

MAX_WORDS = 160
"""The largest number of characters of storage's words in a refusal or a manifest's problem."""

_UNREADABLE_STATUS = 200
_FORBIDDEN = 403
_CONFLICT = 409
_TEMPORARY_STATUS = frozenset({302, 303, 307, 408, 425, 429})
_FIRST_CLIENT_ERROR = 400
_SERVER_ERROR = 500

# Of status 4xx, 501 or 503 at different servers. A retry may get another answer.
_TRANSIENT_CODES = frozenset(
    {
        "BandwidthLimitExceeded",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "KMS.DependencyTimeoutException",
        "KMS.InternalException",
        "KMS.KMSInternalException",
        "KMS.ThrottlingException",
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestTimeout",
        "RequestTimeTooSkewed",  # by this worker's clock: the next attempt may reach another one
        "ServiceUnavailable",
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "TemporaryRedirect",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "TooManyRequestsException",
    }
)
_EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
_CREDENTIAL_CODES = _EXPIRED_CODES | {
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidToken",
    "SignatureDoesNotMatch",
}
# These answers do not depend on the object key: storage would give the same one for every item.
_BUCKET_CODES = _CREDENTIAL_CODES | {
    "AccountProblem",
    "AllAccessDisabled",
    "AuthorizationHeaderMalformed",
    "AuthorizationQueryParametersError",
    "IllegalLocationConstraintException",
    "InvalidBucketName",
    "InvalidRegion",
    "NoSuchBucket",
    "NotSignedUp",
    "PermanentRedirect",
    "XAmzContentSHA256Mismatch",
}
_TERM_CODES = {
    "AccessControlListNotSupported": (Code.ACL_NOT_ALLOWED, "grant.acl"),
    "InvalidEncryptionAlgorithmError": (Code.ENCRYPTION_NOT_ALLOWED, "grant.encryption"),
    "InvalidStorageClass": (Code.STORAGE_CLASS_NOT_ALLOWED, "grant.storage_class"),
    "InvalidTag": (Code.TAGS_INVALID, "grant.tags"),
    "MetadataTooLarge": (Code.METADATA_INVALID, "grant.metadata"),
}
_ACCESS_CODES = frozenset({"AccessDenied", "Forbidden", "UnauthorizedAccess"})
_ACCESS_STATUS = frozenset({401, 403, 404})
_PERMANENT_CODES = _BUCKET_CODES | _ACCESS_CODES | {"KeyTooLongError", "NotImplemented"}
_KNOWN_CODES = _PERMANENT_CODES | _TRANSIENT_CODES

# Not in capitals alone and without digits, as key ids are. The known codes need no such check.
_NAME = re.compile(r"(?:[A-Z]{1,4}\.)?(?:[A-Z]{1,4}[a-z]{1,24}){1,8}", re.ASCII).fullmatch
# Words as people write them, also CamelCase, short ones in capitals, and small numbers. All else
# may be an address, a key id, a signature, a token, a role or an account.
_WORD = re.compile(
    r"""(?: [A-Z]?[a-z]{1,24} (?:[A-Z][a-z]{1,24}){0,4}
    | [A-Z]{1,5} | [0-9]{1,6} | [a-z]{1,16}(?:-[a-z0-9]{1,16}){1,7}
    | [a-z]{1,24}'[a-z]{1,2} )""",
    re.ASCII | re.VERBOSE,
).fullmatch
_PUNCTUATION = ".,;:!?()\"'`"
_REMOVED = "[removed]"
_MAX_MESSAGE = 2_000  # characters that are looked at, however long the message is


class ErrorResponse(NamedTuple):
    """An error that storage answered: its HTTP status, code and message. Nothing of it is trusted.

    code and message are empty if storage's answer has none that can be read.
    """

    status: int
    code: str = ""
    message: str = ""

    @property
    def is_transient(self) -> bool:
        """True if the same call may succeed later."""
        if self.code in _TRANSIENT_CODES or self.code in _EXPIRED_CODES:
            return True
        if self.code in _PERMANENT_CODES or self.refuses_terms:
            return False
        return (
            self.status >= _SERVER_ERROR
            or self.status in _TEMPORARY_STATUS
            or (self.status == _CONFLICT and not self.is_named)
        )

    @property
    def is_named(self) -> bool:
        """True if the code is one, and not a number or nonsense."""
        return self.code in _KNOWN_CODES or _NAME(self.code) is not None

    @property
    def is_answer_to_call(self) -> bool:
        """True if it says for certain that storage did not do what it was asked to."""
        return self.status >= _FIRST_CLIENT_ERROR

    @property
    def rejects_credentials(self) -> bool:
        """True if other credentials may get another answer."""
        return self.code in _CREDENTIAL_CODES

    @property
    def denies_access(self) -> bool:
        """True if the credentials may not do what was asked, and others may be allowed to."""
        is_unnamed = self.status == _FORBIDDEN and not self.is_named
        return self.code in _ACCESS_CODES or is_unnamed

    @property
    def refuses_terms(self) -> bool:
        """True if storage refuses a term of the grant, whatever the object key is."""
        return self.code in _TERM_CODES or self.code.startswith("KMS.")

    @property
    def words(self) -> str:
        """Storage's code and message in one line, without anything that may be a secret."""
        if self.status == _UNREADABLE_STATUS:
            return "an answer that is not S3's"
        code = self.code if self.is_named else f"HTTP {self.status}"
        message = _clean(self.message)
        text = f"{code}: {message}" if message and message != code else code
        return text if len(text) <= MAX_WORDS else f"{text[: MAX_WORDS - 1]}…"


UNREADABLE = ErrorResponse(_UNREADABLE_STATUS)
"""An answer that reports success, but is not what S3 answers to the call."""


class StorageRefusal(NamedTuple):
    """A refusal by storage. is_of_item says that it may accept the other items of the chunk."""

    refusal: Refusal
    is_of_item: bool


def refuse_by_error(error: ErrorResponse, item_field: str) -> StorageRefusal:
    """Return the refusal for a permanent answer to the call for the item at item_field."""
    text = f"storage refused it: {error.words}"
    code, field, is_of_item = Code.STORAGE_REFUSED, "grant", True
    if error.refuses_terms:
        default = (Code.ENCRYPTION_NOT_ALLOWED, "grant.encryption")
        code, field = _TERM_CODES.get(error.code, default)
        is_of_item = False
    elif error.code == "KeyTooLongError":
        code, field = Code.KEY_TOO_LONG, f"{item_field}.key"
    elif error.code in _BUCKET_CODES or error.status < _FIRST_CLIENT_ERROR:
        code, field, is_of_item = Code.BUCKET_UNUSABLE, "grant.bucket", False
    elif error.code in _ACCESS_CODES or (error.status in _ACCESS_STATUS and not error.is_named):
        code, field = Code.BUCKET_UNUSABLE, "grant.bucket"
    elif error.code == "NotImplemented":
        is_of_item = False
    return StorageRefusal(Refusal(code=code, field=field, message=text), is_of_item)


def _clean(message: str) -> str:
    """Return the words of a message in one line, with all that may be a secret replaced."""
    words: list[str] = []
    for word in message[:_MAX_MESSAGE].split():
        core = word.strip(_PUNCTUATION)
        if not core or _WORD(core) or (core.isalpha() and core.islower()):
            words.append(word)
        elif words[-1:] != [_REMOVED]:
            words.append(_REMOVED)
    return " ".join(words)
