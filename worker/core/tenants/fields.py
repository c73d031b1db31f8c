"""Types of single values in tenants.toml. Each error tells the file's author what to write."""

import re
from collections.abc import Callable, Collection
from difflib import get_close_matches
from typing import Annotated, Any, Literal, NamedTuple, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from valetkey.units import parse_duration, parse_size
from valetkey.wire.messages import MAX_BATCH_ITEMS
from valetkey.wire.terms import MAX_EXPIRES_IN, MAX_MULTIPART_BYTES, PolicyKind, StorageClass
from worker.core.signing import object_keys
from worker.core.signing.redirects import parse_redirect_prefix
from worker.core.webhooks import urls

WHOLE_BUCKET = "*"
_MAX_INTEGER = 2**63 - 1  # the largest integer of a database column


class Table(BaseModel):
    """Base of all tables. Unknown fields are refused: a misspelled limit would have no effect."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class ValidationContext(NamedTuple):
    """The input that validators need beside the value's own table.

    bucket_names are the names of the file's bucket profiles. secret_error returns the error of a
    secret reference, or None if it is valid.
    """

    bucket_names: Collection[str]
    development: bool
    secret_error: Callable[[str], str | None]


def closest_name(name: str, known_names: Collection[str]) -> str | None:
    """Return the known name that is most similar to a misspelled one, or None."""
    return next(iter(get_close_matches(name, known_names, n=1)), None)


def field_error(message: str) -> PydanticCustomError:
    """Return the error for a validator to raise, with this message for the file's author."""
    return PydanticCustomError("tenant_config", "{message}", {"message": message})


def _matches(pattern: str, message: str) -> AfterValidator:
    fullmatch = re.compile(pattern).fullmatch

    def validate(value: str) -> str:
        if not fullmatch(value):
            raise field_error(message)
        return value

    return AfterValidator(validate)


def _parsed_by(parse: Callable[[str], int]) -> BeforeValidator:
    def validate(value: Any) -> Any:
        try:
            return parse(value) if isinstance(value, str) else value
        except ValueError as error:
            raise field_error(str(error)) from None

    return BeforeValidator(validate)


def _get_context(info: ValidationInfo) -> ValidationContext:
    return cast("ValidationContext", info.context)


def _check_known_bucket(name: str, info: ValidationInfo) -> str:
    known_names = _get_context(info).bucket_names
    if name in known_names:
        return name
    suggestion = closest_name(name, known_names)
    question = f"; did you mean {suggestion}?" if suggestion else ": add its [buckets.NAME] table"
    raise field_error(f"the file has no bucket profile of this name{question}")


def _check_single_region(bucket: str) -> str:
    # AWS: MultiRegionAccessPointRequests.html; SigV4A signs with elliptic curves, for any region.
    if bucket.startswith("arn:") and bucket.endswith(".mrap"):
        raise field_error(
            "a Multi-Region Access Point needs SigV4A, and this service signs with SigV4 only:"
            " write the ARN of an access point in one region"
        )
    return bucket


def _parse_prefix(value: str) -> str:
    if value == WHOLE_BUCKET:
        return ""
    if not value.endswith("/"):
        # Without the slash, "acme" would also match "acme1/".
        raise field_error('a prefix ends with "/"; the whole bucket is written "*"')
    if refusal := object_keys.key_refusal(f"{value}key", ("",), ""):
        raise field_error(f"no valid object key can start with this prefix: {refusal.message}")
    return value


def _check_redirect_prefix(url: str) -> str:
    if parse_redirect_prefix(url) is None:
        raise field_error(
            "a redirect is https://, a host, an optional port and a path of ASCII characters that"
            " has no empty or dot segments, percent-encoded or not; it has no user, query or"
            " fragment, and an IP address is written like 192.0.2.1"
        )
    return url


def _check_webhook_url(url: str, info: ValidationInfo) -> str:
    if rule := urls.find_url_violation(url, development=_get_context(info).development):
        raise field_error(
            f"webhooks cannot be sent to this URL ({rule}): {urls.VIOLATION_TEXTS[rule]}"
        )
    return url


def _check_secret_reference(reference: str, info: ValidationInfo) -> str:
    if error := _get_context(info).secret_error(reference):
        raise field_error(error)
    return reference


def _check_not_empty(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise field_error("this array needs at least one value")
    return values


_array = Field(strict=False)  # TOML has arrays and no tuples
_name = _matches(
    r"[a-z0-9][a-z0-9_-]{0,62}",
    "a name is 1 to 63 characters of a-z, 0-9, _ and -, and starts with a-z or 0-9",
)
# AWS: bucketnamingrules.html and directory-bucket-naming-rules.html; access points by their ARN.
_bucket_name = _matches(
    r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
    r"|arn:aws[a-z-]*:s3(-object-lambda)?:[a-z0-9-]+:[0-9]{12}:accesspoint/[a-z0-9-]{3,50}"
    r"|arn:aws[a-z-]*:s3-outposts:[a-z0-9-]+:[0-9]{12}"
    r":outpost/op-[a-z0-9]{17}/accesspoint/[a-z0-9-]{3,50}",
    "a bucket is 3 to 63 characters of a-z, 0-9, dots and hyphens, and starts and ends with a-z"
    " or 0-9; or it is an access point's ARN",
)
_s3_endpoint = _matches(
    r"https?://[A-Za-z0-9.\[\]:-]+",
    "an endpoint is http:// or https://, a host and an optional port, without a path or a final"
    " slash",
)
_role_arn = _matches(
    r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[!-~]+",
    "a role is given by its full ARN",
)
# AWS: API_AssumeRole.html.
_external_id = _matches(
    r"[A-Za-z0-9_+=,.@:/-]{2,1224}",
    "an external id is 2 to 1,224 characters of A-Z, a-z, 0-9 and _+=,.@:/-",
)
_content_type = _matches(
    r"\*/\*|[a-z0-9][a-z0-9!#$&^_.+-]*/(\*|[a-z0-9][a-z0-9!#$&^_.+-]*)",
    "a content type is type/subtype, type/* or */*, in lower case and without parameters",
)
_exact_content_type = _matches(
    r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*",
    "a content type here is type/subtype, in lower case and without wildcards or parameters",
)
_kms_key_arn = _matches(
    r"arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:(key|alias)/[A-Za-z0-9/_-]+",
    "a KMS key or its alias is given by the full ARN",
)
_public_key = _matches(
    r"[A-Za-z0-9_-]{43}",
    "a public key is 43 characters of base64url, without padding",
)
# AWS: acl-overview.html, "Canned ACL", those of objects.
_CANNED_ACLS = (
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
)
_acl = _matches("|".join(_CANNED_ACLS), f"a canned ACL is one of {', '.join(_CANNED_ACLS)}")

Name = Annotated[str, _name]
BucketProfileName = Annotated[str, AfterValidator(_check_known_bucket)]
BucketName = Annotated[str, AfterValidator(_check_single_region), _bucket_name]
Region = Annotated[
    str,
    _matches(
        r"[a-z0-9-]{1,63}",
        "a region is 1 to 63 characters of a-z, 0-9 and hyphens, like eu-central-1",
    ),
]
S3Endpoint = Annotated[str, _s3_endpoint, Field(max_length=2_048)]
AwsProfile = Annotated[str, Field(min_length=1, max_length=255)]
AwsAccount = Annotated[str, _matches("[0-9]{12}", "an AWS account is 12 digits, without hyphens")]
RoleArn = Annotated[str, _role_arn, Field(max_length=2_048)]
ExternalId = Annotated[str, _external_id]
RoleSeconds = Annotated[int, _parsed_by(parse_duration), Field(ge=900, le=43_200)]
QueueUrl = Annotated[
    str,
    _matches(
        r"https?://[A-Za-z0-9.:\[\]-]+(?:/[A-Za-z0-9._-]+)+(?<!\.fifo)",
        "a queue is a URL like https://sqs.eu-central-1.amazonaws.com/111122223333/uploads, and no"
        " FIFO queue, because S3 does not send to one",
    ),
    Field(max_length=2_048),
]
ProbeRate = Annotated[int, Field(ge=0, le=1_000)]
Prefixes = Annotated[
    tuple[Annotated[str, AfterValidator(_parse_prefix)], ...],
    _array,
    AfterValidator(_check_not_empty),
]
Kinds = Annotated[tuple[PolicyKind, ...], _array, AfterValidator(_check_not_empty)]
ContentTypes = Annotated[
    tuple[Annotated[str, _content_type], ...], _array, AfterValidator(_check_not_empty)
]
ExactContentTypes = Annotated[tuple[Annotated[str, _exact_content_type], ...], _array]
Acls = Annotated[tuple[Annotated[str, _acl], ...], _array]
ResponseOverrides = Annotated[
    tuple[Literal["cache_control", "content_language", "content_encoding", "expires"], ...],
    _array,
]
StorageClasses = Annotated[tuple[StorageClass, ...], _array]
KmsKeys = Annotated[tuple[Annotated[str, _kms_key_arn], ...], _array]
Redirects = Annotated[tuple[Annotated[str, AfterValidator(_check_redirect_prefix)], ...], _array]
Callbacks = Annotated[tuple[Name, ...], _array]
EncodedPublicKey = Annotated[str, _public_key]
ExpiresIn = Annotated[int, _parsed_by(parse_duration), Field(ge=1, le=MAX_EXPIRES_IN)]
UploadSize = Annotated[int, _parsed_by(parse_size), Field(ge=1, le=MAX_MULTIPART_BYTES)]
BatchSize = Annotated[int, Field(ge=1, le=MAX_BATCH_ITEMS)]
CountLimit = Annotated[int, Field(ge=1, le=_MAX_INTEGER)]
ByteLimit = Annotated[int, _parsed_by(parse_size), Field(ge=1, le=_MAX_INTEGER)]
EndpointUrl = Annotated[str, AfterValidator(_check_webhook_url)]
SecretReference = Annotated[str, AfterValidator(_check_secret_reference), Field(max_length=2_048)]
