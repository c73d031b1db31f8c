"""What a single value of tenants.toml may hold. Each error is a sentence for whoever wrote it."""

import re
from collections.abc import Callable, Collection
from difflib import get_close_matches
from typing import Annotated, Any, Literal, NamedTuple, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from valetkey.units import parse_duration, parse_size
from valetkey.wire.messages import MAX_BATCH_ITEMS
from valetkey.wire.terms import MAX_EXPIRES_IN, MAX_MULTIPART_BYTES, StorageClass
from worker.core.signing import object_keys
from worker.core.tenants.config import Kind
from worker.core.webhooks import urls

WHOLE_BUCKET = "*"
_LARGEST_COUNT = 2**63 - 1  # the largest integer of a database column


class Table(BaseModel):
    """Strict: an unknown field is refused, as a misspelt limit would limit nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class ValidationContext(NamedTuple):
    """What a value is held against that does not stand in its own table."""

    buckets: Collection[str]
    development: bool
    secret_error: Callable[[str], str | None]


def closest_name(name: str, known: Collection[str]) -> str | None:
    """The known name that was probably meant."""
    return next(iter(get_close_matches(name, known, n=1)), None)


def field_error(message: str) -> PydanticCustomError:
    """Refuse a value with this sentence."""
    return PydanticCustomError("declaration", "{message}", {"message": message})


def _like(pattern: str, sentence: str) -> AfterValidator:
    matches = re.compile(pattern).fullmatch

    def check(value: str) -> str:
        if not matches(value):
            raise field_error(sentence)
        return value

    return AfterValidator(check)


def _written(read: Callable[[str], int]) -> BeforeValidator:
    def check(value: Any) -> Any:
        try:
            return read(value) if isinstance(value, str) else value
        except ValueError as error:
            raise field_error(str(error)) from None

    return BeforeValidator(check)


def _around(info: ValidationInfo) -> ValidationContext:
    return cast("ValidationContext", info.context)


def _known(name: str, info: ValidationInfo) -> str:
    buckets = _around(info).buckets
    if name in buckets:
        return name
    meant = closest_name(name, buckets)
    question = f"; did you mean {meant}?" if meant else ""
    raise field_error(f"no bucket profile of this name is declared{question}")


def _one_region(value: str) -> str:
    # AWS: MultiRegionAccessPointRequests.html; SigV4A signs with elliptic curves, for any region.
    if value.startswith("arn:") and value.endswith(".mrap"):
        raise field_error("a Multi-Region Access Point needs SigV4A, and only SigV4 is signed here")
    return value


def _prefix(value: str) -> str:
    if value == WHOLE_BUCKET:
        return ""
    if not value.endswith("/"):
        # Without the slash, "acme" would reach into "acme1/".
        raise field_error('a prefix ends with "/"; the whole bucket is written "*"')
    if refusal := object_keys.key_refusal(f"{value}key", ("",), ""):
        raise field_error(f"no key could begin with this: {refusal.message}")
    return value


def _webhook(url: str, info: ValidationInfo) -> str:
    if rule := urls.broken_rule(url, development=_around(info).development):
        raise field_error(f"webhooks do not go there: {rule.value}")
    return url


def _reference(secret: str, info: ValidationInfo) -> str:
    if error := _around(info).secret_error(secret):
        raise field_error(error)
    return secret


def _some(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise field_error("at least one is needed")
    return values


_list = Field(strict=False)  # TOML has arrays, and no tuples
_name = _like(
    r"[a-z0-9][a-z0-9_-]{0,62}",
    "a name is up to 63 lower-case letters, digits, _ and -, and begins with a letter or digit",
)
# AWS: bucketnamingrules.html and directory-bucket-naming-rules.html; access points by their ARN.
_bucket = _like(
    r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
    r"|arn:aws[a-z-]*:s3(-object-lambda)?:[a-z0-9-]+:[0-9]{12}:accesspoint/[a-z0-9-]{3,50}"
    r"|arn:aws[a-z-]*:s3-outposts:[a-z0-9-]+:[0-9]{12}"
    r":outpost/op-[a-z0-9]{17}/accesspoint/[a-z0-9-]{3,50}",
    "a bucket is 3 to 63 lower-case letters, digits, dots and hyphens, or an access point's ARN",
)
_s3_endpoint = _like(
    r"https?://[A-Za-z0-9.\[\]:-]+",
    "an endpoint is http:// or https://, a host and perhaps a port, and nothing behind it",
)
_role = _like(
    r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[!-~]+",
    "a role is its ARN, like arn:aws:iam::111122223333:role/valetkey",
)
# AWS: API_AssumeRole.html.
_external_id = _like(
    r"[A-Za-z0-9_+=,.@:/-]{2,1224}",
    "an external id is 2 to 1,224 letters, digits and _+=,.@:/-",
)
_content_type = _like(
    r"\*/\*|[a-z0-9][a-z0-9!#$&^_.+-]*/(\*|[a-z0-9][a-z0-9!#$&^_.+-]*)",
    "a content type is type/subtype, type/* or */*, in lower case and without parameters",
)
_exact_type = _like(
    r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*",
    "a content type here is type/subtype, in lower case and without wildcards",
)
_kms_key = _like(
    r"arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:(key|alias)/[A-Za-z0-9/_-]+",
    "a key is its ARN, like arn:aws:kms:eu-central-1:111122223333:key/1234abcd-…",
)
# The slash behind the host keeps app.example.com from reaching app.example.com.evil.
_redirect = _like(
    r"https://[a-z0-9.-]+(:[0-9]+)?/[^\s\\#]*",
    "a redirect begins with https://, a host and a slash",
)
_public_key = _like(
    r"[A-Za-z0-9_-]{43}",
    "a public key is 43 characters of base64url, as `valetkey keygen` prints it",
)
# AWS: acl-overview.html, "Canned ACL", those of objects.
_acl = _like(
    "private|public-read|public-read-write|authenticated-read|aws-exec-read"
    "|bucket-owner-read|bucket-owner-full-control",
    "this is not a canned ACL of S3, like public-read",
)

Name = Annotated[str, _name]
KnownBucket = Annotated[str, AfterValidator(_known)]
RealBucket = Annotated[str, AfterValidator(_one_region), _bucket]
Region = Annotated[str, _like(r"[a-z0-9-]{1,63}", "a region looks like eu-central-1")]
S3Endpoint = Annotated[str, _s3_endpoint, Field(max_length=2_048)]
Profile = Annotated[str, Field(min_length=1, max_length=255)]
Account = Annotated[str, _like("[0-9]{12}", "an AWS account is 12 digits")]
RoleArn = Annotated[str, _role, Field(max_length=2_048)]
ExternalId = Annotated[str, _external_id]
RoleSeconds = Annotated[int, _written(parse_duration), Field(ge=900, le=43_200)]
Prefixes = Annotated[
    tuple[Annotated[str, AfterValidator(_prefix)], ...], _list, AfterValidator(_some)
]
Kinds = Annotated[tuple[Kind, ...], _list, AfterValidator(_some)]
ContentTypes = Annotated[tuple[Annotated[str, _content_type], ...], _list, AfterValidator(_some)]
Acls = Annotated[tuple[Annotated[str, _acl], ...], _list]
ExactTypes = Annotated[tuple[Annotated[str, _exact_type], ...], _list]
Overrides = Annotated[
    tuple[Literal["cache_control", "content_language", "content_encoding", "expires"], ...],
    _list,
]
StorageClasses = Annotated[tuple[StorageClass, ...], _list]
KmsKeys = Annotated[tuple[Annotated[str, _kms_key], ...], _list]
Callbacks = Annotated[tuple[Name, ...], _list]
PublicKey = Annotated[str, _public_key]
Redirects = Annotated[tuple[Annotated[str, _redirect], ...], _list]
ExpiresIn = Annotated[int, _written(parse_duration), Field(ge=1, le=MAX_EXPIRES_IN)]
UploadSize = Annotated[int, _written(parse_size), Field(ge=1, le=MAX_MULTIPART_BYTES)]
BatchSize = Annotated[int, Field(ge=1, le=MAX_BATCH_ITEMS)]
Count = Annotated[int, Field(ge=1, le=_LARGEST_COUNT)]
Bytes = Annotated[int, _written(parse_size), Field(ge=1, le=_LARGEST_COUNT)]
WebhookUrl = Annotated[str, AfterValidator(_webhook)]
SecretReference = Annotated[str, AfterValidator(_reference), Field(max_length=2_048)]
