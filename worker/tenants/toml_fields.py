"""The values in tenants.toml: types of fields and quotas, their units, their locations in the file.

Each error tells the file's author what to write.
"""

import json
import re
from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, NamedTuple, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from valetkey.units import (
    describe_amount,
    describe_duration,
    describe_size,
    parse_duration,
    parse_size,
)
from valetkey.wire.messages import MAX_BATCH_ITEMS
from valetkey.wire.refusals import Metric, Window
from valetkey.wire.terms import MAX_EXPIRES_IN, MAX_MULTIPART_BYTES, PolicyKind, StorageClass
from worker.core import callback_urls, object_keys
from worker.core.callback_urls import parse_redirect_prefix
from worker.core.quota_rules import METRICS
from worker.core.tenant_config import Quota

Location = tuple[str | int, ...]

_is_bare_key = re.compile(r"[A-Za-z0-9_-]+").fullmatch
_match_header = re.compile(r"\s*\[([^\[\]]+)\]").match
_match_field = re.compile(r"\s*([\w.\"'-]+)\s*=").match


def format_location(location: Location) -> str:
    """Format a location as a dotted TOML key, with the indices of array items in brackets."""
    parts = (
        f"[{part}]"
        if isinstance(part, int)
        else f".{part if _is_bare_key(part) else json.dumps(part)}"
        for part in location
    )
    return "".join(parts).removeprefix(".")


class LineIndex:
    """The line numbers of tables and fields in a TOML text.

    tomllib reports no line numbers. A line-by-line scan is exact enough for error messages.
    """

    def __init__(self, text: str) -> None:
        self._lines: dict[Location, int] = {}
        table: Location = ()
        for number, line in enumerate(text.split("\n"), start=1):
            if header := _match_header(line):
                table = _split_dotted_key(header[1])
                for length in range(1, len(table) + 1):
                    self._lines.setdefault(table[:length], number)
            elif field := _match_field(line):
                self._lines.setdefault(table + _split_dotted_key(field[1]), number)

    def find_line(self, location: Location) -> int | None:
        """Return the line of a location or of its nearest parent that has one."""
        for length in range(len(location), 0, -1):
            if line := self._lines.get(location[:length]):
                return line
        return None


def _split_dotted_key(dotted_key: str) -> Location:
    return tuple(part.strip().strip("\"'") for part in dotted_key.split("."))


_DURATIONS = frozenset({"max_expires_in", "role_seconds"})
_QUOTAS_DEPTH = 2  # a quota's location begins with tenants, the tenant's name, quotas, the metric


def describe_number(location: Sequence[str | int], number: int) -> str:
    """Describe the number at a location of the file: a duration, a size or a plain number."""
    if location[_QUOTAS_DEPTH : _QUOTAS_DEPTH + 1] == ("quotas",):
        return describe_amount(str(location[_QUOTAS_DEPTH + 1]), number)
    if location[-1] in _DURATIONS:
        return describe_duration(number)
    return describe_size(number) if location[-1] == "max_size" else f"{number:,}"


_MESSAGES = {
    "bool_type": "this must be true or false, without quotes",
    "dict_type": "this must be a table",
    "extra_forbidden": "no such field",
    "greater_than_equal": "this must be at least {ge}",
    "int_type": "this must be a whole number, without quotes",
    "less_than_equal": "this must be at most {le}",
    "literal_error": "this must be {expected}",
    "missing": "this field is required",
    "model_attributes_type": "this must be a table",
    "model_type": "this must be a table",
    "string_too_long": "this is too long: the maximum is {max_length:,} characters",
    "string_too_short": "this is too short: the minimum length is {min_length:,}",
    "string_type": 'this must be a string in quotes, like "text"',
    "tuple_type": 'this must be an array in brackets, like ["a", "b"]',
}


def error_message(error: ErrorDetails) -> str:
    """Return the message of a validation error, without the input that was refused."""
    template = _MESSAGES.get(error["type"])
    if template is None:
        return error["msg"]
    context = error.get("ctx", {})
    bounds = {
        name: describe_number(error["loc"], context[name])
        for name in ("ge", "le")
        if name in context
    }
    # pydantic quotes the permitted values in Python's way: 'virtual' or 'path'.
    return template.format_map(context | bounds).replace("'", '"')


WHOLE_BUCKET = "*"
_MAX_INTEGER = 2**63 - 1  # the largest integer of a database column


class Table(BaseModel):
    """Base of all tables. Unknown fields are refused: a misspelled limit would have no effect."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class ValidationContext(NamedTuple):
    """The input that validators need beside the value's own table.

    bucket_names are the names of the file's bucket profiles.
    """

    bucket_names: Collection[str]
    development: bool


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
    if rule := callback_urls.find_url_violation(url, development=_get_context(info).development):
        raise field_error(
            f"webhooks cannot be sent to this URL ({rule}): {callback_urls.VIOLATION_TEXTS[rule]}"
        )
    return url


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
    r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[!-~]+", "a role is given by its full ARN"
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
    r"[A-Za-z0-9_-]{43}", "a public key is 43 characters of base64url, without padding"
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
    tuple[Literal["cache_control", "content_language", "content_encoding", "expires"], ...], _array
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


class QuotaLimitTable(Table):
    """{ limit = …, warn = … }: a limit and the usage from which warnings are sent."""

    limit: CountLimit = Field(description="a whole number")
    warn: CountLimit | None = Field(
        None, description='a number up to the limit, or a percentage like "80%"'
    )

    @field_validator("warn", mode="before")
    @classmethod
    def _parse_percentage(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str) or not value.endswith("%"):
            return value
        digits = value.removesuffix("%").strip()
        if not (digits.isascii() and digits.isdecimal() and 1 <= int(digits) <= 100):  # noqa: PLR2004 - percent
            raise field_error('a percentage of the limit is "1%" to "100%", in whole percent')
        limit = info.data.get("limit")
        if limit is None:  # the limit itself is invalid, and has an error of its own
            return None
        return -(-limit * int(digits) // 100)  # rounded up

    @field_validator("warn")
    @classmethod
    def _check_warn(cls, value: int | None, info: ValidationInfo) -> int | None:
        limit = info.data.get("limit")
        if value is not None and limit is not None and value > limit:
            raise field_error(
                f"usage never reaches a warning above the limit: write {limit} or less"
            )
        return value

    def to_config(self, metric: Metric, window: Window) -> Quota:
        """Convert to the worker's form."""
        return Quota(metric, window, self.limit, self.warn)


class ByteLimitTable(QuotaLimitTable):
    """{ limit = …, warn = … } in bytes."""

    limit: ByteLimit = Field(description="bytes, or a size like 500KiB or 10GiB")
    warn: ByteLimit | None = Field(
        None, description='a size up to the limit, or a percentage like "80%"'
    )


def limit_table_class(metric: Metric) -> type[QuotaLimitTable]:
    """Return the class of a metric's limits: numbers of grants, or bytes."""
    return ByteLimitTable if metric.endswith("_bytes") else QuotaLimitTable


def _as_limit_table(value: Any) -> Any:
    return value if isinstance(value, dict) else {"limit": value}


_CountLimitForms = Annotated[QuotaLimitTable, BeforeValidator(_as_limit_table)]
_ByteLimitForms = Annotated[ByteLimitTable, BeforeValidator(_as_limit_table)]


ONLY_LIVE_QUOTA = "stored_bytes counts what is stored now: its only window is live"


class QuotaTable(Table):
    """[tenants.NAME.quotas]: limits by metric and window. All windows but live are in UTC.

    A plain value in place of a table is its limit.
    """

    grants: dict[Window, _CountLimitForms] = Field(default_factory=dict)
    download_grants: dict[Window, _CountLimitForms] = Field(default_factory=dict)
    stored_bytes: dict[Window, _ByteLimitForms] = Field(default_factory=dict)
    upload_bytes: dict[Window, _ByteLimitForms] = Field(default_factory=dict)

    @field_validator("stored_bytes", mode="before")
    @classmethod
    def _check_window(cls, value: Any) -> Any:
        if isinstance(value, dict) and not value.keys() <= {"live"}:
            raise field_error(ONLY_LIVE_QUOTA)
        return value

    def to_config(self) -> tuple[Quota, ...]:
        """Convert to the worker's form, in the order of the database's primary key."""
        return tuple(
            limit.to_config(metric, window)
            for metric in sorted(METRICS)
            for window, limit in sorted(getattr(self, metric).items())
        )


def parse_quota(metric: Metric, window: Window, limit: str, warn: str | int | None) -> Quota:
    """Parse a quota from command-line arguments. Raises pydantic's ValidationError."""
    values = {"limit": _parse_limit(limit), "warn": _parse_limit(warn)}
    return limit_table_class(metric).model_validate(values).to_config(metric, window)


def _parse_limit(text: str | int | None) -> str | int | None:
    digits = text.replace("_", "") if isinstance(text, str) else ""
    return int(digits) if digits.isascii() and digits.isdecimal() else text
