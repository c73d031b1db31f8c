"""The types of values in tenants.toml. The error of a value says what to write instead."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError, PydanticKnownError

from valetkey.signing.object_keys import key_refusal
from valetkey.units import parse_duration, parse_size
from valetkey.wire.messages import MAX_BATCH_ITEMS
from valetkey.wire.terms import MAX_EXPIRES_IN, MAX_MULTIPART_BYTES, NAME_PATTERN
from valetkey.wire.waiting import MIN_MAX_MESSAGES
from worker.rules.redirects import parse_redirect_prefix

T = TypeVar("T")
_MAX_INTEGER = 2**63 - 1  # the largest integer of a database column


def value_error(message: str) -> PydanticCustomError:
    """Return the error for a validator to raise, with this message for the file's author."""
    return PydanticCustomError("tenant_config", "{message}", {"message": message})


def _matches(pattern: str, message: str) -> AfterValidator:
    fullmatch = re.compile(pattern).fullmatch

    def validate(value: str) -> str:
        if not fullmatch(value):
            raise value_error(message)
        return value

    return AfterValidator(validate)


def _parsed_by(parse: Callable[[str], int]) -> BeforeValidator:
    def validate(value: Any) -> Any:
        try:
            return parse(value) if isinstance(value, str) else value
        except ValueError as error:
            raise value_error(str(error)) from None

    return BeforeValidator(validate)


def _refuse(_: Any) -> None:
    raise PydanticKnownError("unexpected_keyword_argument")


TABLE_NAME = "[name]"
"""The key under which `add_names` gives a table its name. No bare key of TOML has brackets."""

TableName = Annotated[SkipJsonSchema[str], Field(alias=TABLE_NAME, exclude=True)]
NotInFile = Annotated[SkipJsonSchema[T], BeforeValidator(_refuse), Field(exclude=True)]


def add_names(tables: Any) -> Any:
    """Add to each table its name, which is its key."""
    if not isinstance(tables, dict):
        return tables
    return {
        name: {**table, TABLE_NAME: name} if isinstance(table, dict) else table
        for name, table in tables.items()
    }


Name = Annotated[
    str,
    _matches(
        NAME_PATTERN,
        "a name is 1 to 63 characters of a-z, 0-9, _ and -, and starts with a-z or 0-9",
    ),
]


def _check_single_region(bucket: str) -> str:
    # AWS: MultiRegionAccessPointRequests.html; SigV4A signs with elliptic curves, for any region.
    if bucket.startswith("arn:") and bucket.endswith(".mrap"):
        raise value_error(
            "a Multi-Region Access Point needs SigV4A, and this service signs with SigV4 only:"
            " write the ARN of an access point in one region"
        )
    return bucket


# AWS: bucketnamingrules.html and directory-bucket-naming-rules.html; access points by their ARN.
BucketName = Annotated[
    str,
    AfterValidator(_check_single_region),
    _matches(
        r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
        r"|arn:aws[a-z-]*:s3(-object-lambda)?:[a-z0-9-]+:[0-9]{12}:accesspoint/[a-z0-9-]{3,50}"
        r"|arn:aws[a-z-]*:s3-outposts:[a-z0-9-]+:[0-9]{12}"
        r":outpost/op-[a-z0-9]{17}/accesspoint/[a-z0-9-]{3,50}",
        "a bucket is 3 to 63 characters of a-z, 0-9, dots and hyphens, and starts and ends with"
        " a-z or 0-9; or it is an access point's ARN",
    ),
]
Region = Annotated[
    str,
    _matches(
        r"[a-z0-9-]{1,63}",
        "a region is 1 to 63 characters of a-z, 0-9 and hyphens, like eu-central-1",
    ),
]
S3Endpoint = Annotated[
    str,
    _matches(
        r"https?://[A-Za-z0-9.\[\]:-]+",
        "an endpoint is http:// or https://, a host and an optional port, without a path or a"
        " final slash",
    ),
    Field(max_length=2_048),
]
AwsProfile = Annotated[str, Field(min_length=1, max_length=255)]
AwsAccount = Annotated[str, _matches("[0-9]{12}", "an AWS account is 12 digits, without hyphens")]
RoleArn = Annotated[
    str,
    _matches(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[!-~]+", "a role is given by its full ARN"),
    Field(max_length=2_048),
]
# AWS: API_AssumeRole.html.
ExternalId = Annotated[
    str,
    _matches(
        r"[A-Za-z0-9_+=,.@:/-]{2,1224}",
        "an external id is 2 to 1,224 characters of A-Z, a-z, 0-9 and _+=,.@:/-",
    ),
]
RoleSeconds = Annotated[StrictInt, _parsed_by(parse_duration), Field(ge=900, le=43_200)]
QueueUrl = Annotated[
    str,
    _matches(
        r"https?://[A-Za-z0-9.:\[\]-]+(?:/[A-Za-z0-9._-]+)+(?<!\.fifo)",
        "a queue is a URL like https://sqs.eu-central-1.amazonaws.com/111122223333/uploads, and no"
        " FIFO queue, because S3 does not send to one",
    ),
    Field(max_length=2_048),
]
ProbeRate = Annotated[StrictInt, Field(ge=0, le=1_000)]


def _parse_prefix(value: str) -> str:
    if value == "*":
        return ""
    if not value.endswith("/"):
        # Without the slash, "acme" would also match "acme1/".
        raise value_error('a prefix ends with "/"; the whole bucket is written "*"')
    if refusal := key_refusal(f"{value}key", ("",), ""):
        raise value_error(f"no valid object key can start with this prefix: {refusal.message}")
    return value


def _check_redirect_prefix(url: str) -> str:
    if parse_redirect_prefix(url) is None:
        raise value_error(
            "a redirect is https://, a host, an optional port and a path of ASCII characters that"
            " has no empty or dot segments, percent-encoded or not; it has no user, query or"
            " fragment, and an IP address is written like 192.0.2.1"
        )
    return url


def _check_not_empty(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise value_error("this array needs at least one value")
    return values


TYPE_NAME = r"[a-z0-9][a-z0-9!#$&^_.+-]*"
"""The pattern of a type or subtype: in lower case."""
NOT_EMPTY = AfterValidator(_check_not_empty)
Prefix = Annotated[str, AfterValidator(_parse_prefix)]
Redirect = Annotated[str, AfterValidator(_check_redirect_prefix)]
ContentType = Annotated[
    str,
    _matches(
        rf"\*/\*|{TYPE_NAME}/(\*|{TYPE_NAME})",
        "a content type is type/subtype, type/* or */*, in lower case and without parameters",
    ),
]
ExactContentType = Annotated[
    str,
    _matches(
        rf"{TYPE_NAME}/{TYPE_NAME}",
        "a content type here is type/subtype, in lower case and without wildcards or parameters",
    ),
]
KmsKey = Annotated[
    str,
    _matches(
        r"arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:(key|alias)/[A-Za-z0-9/_-]+",
        "a KMS key or its alias is given by the full ARN",
    ),
]
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
CannedAcl = Annotated[
    str, _matches("|".join(_CANNED_ACLS), f"a canned ACL is one of {', '.join(_CANNED_ACLS)}")
]
ExpiresIn = Annotated[StrictInt, _parsed_by(parse_duration), Field(ge=1, le=MAX_EXPIRES_IN)]
UploadSize = Annotated[StrictInt, _parsed_by(parse_size), Field(ge=1, le=MAX_MULTIPART_BYTES)]
MaxWaiting = Annotated[StrictInt, Field(ge=MIN_MAX_MESSAGES, le=10_000_000)]
MaxWaitingAge = Annotated[StrictInt, Field(ge=1, le=86_400)]
BatchSize = Annotated[StrictInt, Field(ge=1, le=MAX_BATCH_ITEMS)]
PublicKey = Annotated[
    str,
    _matches(r"[A-Za-z0-9_-]{43}", "a public key is 43 characters of base64url, without padding"),
]
CountLimit = Annotated[StrictInt, Field(ge=1, le=_MAX_INTEGER)]
ByteLimit = Annotated[StrictInt, _parsed_by(parse_size), Field(ge=1, le=_MAX_INTEGER)]


def _parse_time(value: Any) -> Any:
    """Convert a TOML date or date-time, or its text, to UTC. UTC is the default time zone."""
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else value
        if isinstance(time, date) and not isinstance(time, datetime):
            time = datetime(time.year, time.month, time.day, tzinfo=UTC)
        if isinstance(time, datetime):
            return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise value_error("this must be a date, or a date and time in ISO 8601")


Time = Annotated[datetime, BeforeValidator(_parse_time)]
