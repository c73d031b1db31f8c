"""Reads and checks tenants.toml, table by table.

The description of a field is the hint of its errors.
"""

import re
import tomllib
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from valetkey.crypto.keys import build_public_key
from valetkey.wire.terms import MAX_EXPIRES_IN, TERMS_BY_KIND, StorageTerms
from worker.core.issued_grants import is_ordinary_bucket
from worker.core.quota_rules import METRICS
from worker.core.tenant_config import (
    NO_ENDPOINTS,
    Addressing,
    Bucket,
    DefaultEndpoints,
    Policy,
    Provider,
    Tenant,
    TenantConfig,
    TenantKey,
    WebhookEndpoint,
)
from worker.tenants import toml_fields
from worker.tenants.config_conflicts import Conflict, find_conflicts
from worker.tenants.toml_fields import (
    LineIndex,
    Location,
    QuotaTable,
    Table,
    ValidationContext,
    closest_name,
    error_message,
    field_error,
    format_location,
    limit_table_class,
)
from worker.webhooks.webhook_rules import secret_reference_error


class BucketTable(Table):
    """[buckets.NAME]: a bucket profile."""

    bucket: toml_fields.BucketName = Field(
        description="the name of the real bucket, like acme-reports, or an access point's ARN"
    )
    region: toml_fields.Region = Field(description="the region in signatures, like eu-central-1")
    addressing: Addressing = Field(
        "virtual", validate_default=True, description='"virtual" or "path"'
    )
    endpoint: toml_fields.S3Endpoint | None = Field(
        None, description="the address that the users of links reach, like https://s3.example.com"
    )
    profile: toml_fields.AwsProfile | None = Field(
        None, description="a profile of the AWS configuration, 1 to 255 characters"
    )
    internal_endpoint: toml_fields.S3Endpoint | None = Field(
        None, description="the address that this worker reaches, like http://minio:9000"
    )
    provider: Provider | None = Field(
        None, validate_default=True, description='"aws", "r2" or "other"'
    )
    post: bool | None = Field(
        None, validate_default=True, description="true if the storage accepts POST forms"
    )
    conditional_writes: bool = Field(
        True, description="false if the storage ignores If-None-Match of a PUT"
    )
    versioned: bool = Field(
        False, description="true if the bucket keeps earlier versions of its objects"
    )
    fips: bool = Field(False, description="true selects Amazon's FIPS endpoint")
    dualstack: bool = Field(False, description="true selects Amazon's endpoint with IPv6")
    accelerate: bool = Field(False, description="true selects S3 Transfer Acceleration")
    owner: toml_fields.AwsAccount | None = Field(
        None, description='the account that owns the bucket, a string like "111122223333"'
    )
    max_expires_in: toml_fields.ExpiresIn = Field(
        MAX_EXPIRES_IN,
        description="seconds, or like 12h: the longest that the provider allows, 7d at most",
    )
    role_arn: toml_fields.RoleArn | None = Field(
        None, description="the role that signs, like arn:aws:iam::111122223333:role/valetkey"
    )
    external_id: toml_fields.ExternalId | None = Field(
        None, description="the external id that the role's trust policy requires"
    )
    role_seconds: toml_fields.RoleSeconds = Field(
        3_600,
        description="seconds of a session, or like 1h: 15m to the role's maximum, 12h at most",
    )
    events_queue: toml_fields.QueueUrl | None = Field(
        None, description="the URL of the SQS queue that gets the bucket's event notifications"
    )
    probe_rate: toml_fields.ProbeRate = Field(
        20, description="requests a second, 0 to 1,000, that ask storage what upload slots stored"
    )

    def to_config(self, name: str) -> Bucket:
        """Convert to the worker's form, with the provider's defaults."""
        return Bucket(name=name, **self.model_dump())

    @field_validator("region")
    @classmethod
    def _check_region_of_arn(cls, value: str, info: ValidationInfo) -> str:
        bucket = info.data.get("bucket", "")
        region = bucket.split(":")[3] if bucket.startswith("arn:") else value
        if region != value:
            raise field_error(f'the access point\'s ARN has another region: write "{region}"')
        return value

    @field_validator("addressing")
    @classmethod
    def _check_certificate(cls, value: Addressing, info: ValidationInfo) -> Addressing:
        # AWS: VirtualHosting.html; its wildcard certificate covers one label.
        if value == "virtual" and "." in info.data.get("bucket", ""):
            raise field_error(
                "no certificate covers a bucket name with a dot as a host name:"
                ' write addressing = "path"'
            )
        return value

    @field_validator("provider")
    @classmethod
    def _check_provider(cls, value: Provider | None, info: ValidationInfo) -> Provider:
        # Cloudflare: r2/api/s3/api, "Bucket region".
        endpoint = info.data.get("endpoint")
        if value == "r2" and (endpoint is None or info.data.get("region") != "auto"):
            raise field_error(
                'R2 needs region = "auto" and the account\'s endpoint,'
                ' like endpoint = "https://ACCOUNT.r2.cloudflarestorage.com"'
            )
        return value or ("aws" if endpoint is None else "other")

    @field_validator("post")
    @classmethod
    def _check_post(cls, value: bool | None, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's own call
        # Cloudflare: r2/api/s3/presigned-urls has no POST; boto3 signs none for access points.
        if value and not _is_ordinary(info):
            raise field_error(
                "access points and directory buckets accept no POST forms: write post = false"
            )
        is_default = info.data.get("provider") != "r2" and _is_ordinary(info)
        return is_default if value is None else value

    @field_validator("fips", "dualstack", "accelerate")
    @classmethod
    def _check_aws_endpoint(cls, value: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's own call
        if value and info.data.get("endpoint"):
            raise field_error(
                "this selects one of Amazon's endpoints, but endpoint is set already:"
                " remove one of the two"
            )
        if value and info.field_name == "accelerate":
            _check_acceleration(info)
        return value

    @field_validator("role_arn")
    @classmethod
    def _check_role(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and (not _is_ordinary(info) or info.data.get("provider") == "r2"):
            raise field_error(
                "a role's session can be limited to prefixes only in an ordinary bucket, not in"
                " an access point, a directory bucket or R2: remove role_arn"
            )
        return value

    @field_validator("external_id", "role_seconds")
    @classmethod
    def _check_role_is_set(cls, value: str | int | None, info: ValidationInfo) -> str | int | None:
        # An invalid role_arn is missing from data, and has an error of its own.
        if info.data.get("role_arn", "invalid") is None:
            raise field_error("this has no effect without role_arn: add role_arn or remove this")
        return value


def _is_ordinary(info: ValidationInfo) -> bool:
    return is_ordinary_bucket(info.data.get("bucket", ""))


def _check_acceleration(info: ValidationInfo) -> None:
    # AWS: transfer-acceleration.html, "Requirements".
    if info.data.get("addressing") == "path" or not _is_ordinary(info):
        raise field_error(
            'acceleration needs addressing = "virtual" and an ordinary bucket without dots in its'
            " name"
        )
    if info.data.get("fips"):
        raise field_error("acceleration has no FIPS endpoint: remove fips or accelerate")


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
    raise field_error("this must be a date, or a date and time in ISO 8601")


_Time = Annotated[datetime, BeforeValidator(_parse_time)]


class KeyTable(Table):
    """NAME = { sign = …, seal = … }: two public keys, as `valetkey keygen` prints them."""

    sign: toml_fields.EncodedPublicKey = Field(
        description="copy the line that `valetkey keygen` prints"
    )
    seal: toml_fields.EncodedPublicKey = Field(
        description="copy the line that `valetkey keygen` prints"
    )
    expires: _Time | None = Field(
        None, description="like 2027-11-25, which is 00:00 UTC, or 2027-11-25T08:30:00Z"
    )
    revoked: bool = Field(False, description="true refuses the key's messages as key_revoked")

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if self.sign == self.seal:
            raise field_error(
                "sign and seal are two different keys, but here they are equal: copy the line of"
                " `valetkey keygen`"
            )
        try:
            build_public_key(self.sign, self.seal)
        except ValueError:
            raise field_error(
                "sign and seal are not valid public keys: copy the line of `valetkey keygen`"
            ) from None
        return self

    def to_config(self, name: str) -> TenantKey:
        """Convert to the worker's form."""
        return TenantKey(name=name, **self.model_dump())


_UPLOAD_KINDS = {kind for kind, terms in TERMS_BY_KIND.items() if issubclass(terms, StorageTerms)}


class PolicyTable(Table):
    """[tenants.NAME.allow.BUCKET]: the requests that a tenant may make in a bucket profile."""

    prefixes: toml_fields.Prefixes = Field(
        description='like ["acme/"], or ["*"] for the whole bucket'
    )
    kinds: toml_fields.Kinds = Field(
        description='an array of "download", "upload", "put" and "multipart"'
    )
    max_expires_in: toml_fields.ExpiresIn = Field(
        3_600, description="seconds, or a duration like 15m or 12h, 7d at most"
    )
    max_size: toml_fields.UploadSize | None = Field(
        None,
        description="bytes of one upload, or a size like 500KiB or 5GiB, 5TiB at most",
        validate_default=True,
    )
    content_types: toml_fields.ContentTypes = Field(
        ("application/octet-stream",), description='like ["image/*", "application/pdf"]'
    )
    acls: toml_fields.Acls = Field((), description='like ["bucket-owner-full-control"]')
    inline: toml_fields.ExactContentTypes = Field(
        (), description='types that a download may display in the browser, like ["image/png"]'
    )
    overrides: toml_fields.ResponseOverrides = Field((), description='like ["cache_control"]')
    storage_classes: toml_fields.StorageClasses = Field((), description='like ["STANDARD_IA"]')
    kms_keys: toml_fields.KmsKeys = Field(
        (), description='like ["arn:aws:kms:eu-central-1:111122223333:key/1234abcd-…"]'
    )
    redirects: toml_fields.Redirects = Field(
        (), description='like ["https://app.example.com/done/"]'
    )
    free_names: bool = Field(False, description="true lets a form's key end in ${filename}")
    overwrite: bool = Field(False, description="true lets a put replace an object")
    plain: bool = Field(
        False, description="true allows links that leave the response to the stored object"
    )
    callbacks: toml_fields.Callbacks | None = Field(
        None,
        description='endpoints that may receive webhooks, like ["billing"]; unset: all of them',
    )
    max_batch: toml_fields.BatchSize | None = Field(
        None, description="items in one request, a whole number from 1 to 1,000,000"
    )
    shared: bool = Field(
        False,
        description="true lets another tenant's prefixes overlap, if its policy is shared too",
    )

    @field_validator("max_size")
    @classmethod
    def _check_max_size(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is None and not _UPLOAD_KINDS.isdisjoint(info.data.get("kinds", ())):
            raise field_error('kinds that upload need max_size: add a line like max_size = "5GiB"')
        return value

    def to_config(self, bucket: str) -> Policy:
        """Convert to the worker's form. Without an upload kind, max_size is 0."""
        return Policy(bucket=bucket, **self.model_dump() | {"max_size": self.max_size or 0})


def _check_secret_reference(reference: str) -> str:
    if error := secret_reference_error(reference):
        raise field_error(error)
    return reference


class WebhookEndpointTable(Table):
    """[tenants.NAME.endpoints.NAME]: an endpoint that a request's callback can name."""

    url: toml_fields.EndpointUrl = Field(
        description="an https:// URL with a public host name and port 443 or 8443"
    )
    secret: Annotated[str, AfterValidator(_check_secret_reference)] = Field(
        max_length=2_048,
        description='a reference like "env:NAME" or "file:PATH", 2,048 characters at most',
    )


class TenantTable(Table):
    """[tenants.NAME]: an account that producers act for."""

    trust: Literal["keys", "queue"] = Field(
        "keys",
        description='"keys", or "queue": anyone who can write to the queue can act for the tenant',
    )
    keys: dict[toml_fields.Name, KeyTable] = Field(default_factory=dict)
    max_batch: toml_fields.BatchSize = Field(
        100_000, description="items in one request, a whole number from 1 to 1,000,000"
    )
    refund_unused: bool = Field(
        True, description="false keeps the bytes of unused upload slots charged"
    )
    allow: dict[toml_fields.BucketProfileName, PolicyTable] = Field(default_factory=dict)
    quotas: QuotaTable = QuotaTable()
    endpoints: dict[toml_fields.Name, WebhookEndpointTable] = Field(default_factory=dict)

    def to_config(self, name: str) -> Tenant:
        """Convert to the worker's form."""
        return Tenant(
            name=name,
            trust=self.trust,
            max_batch=self.max_batch,
            refund_unused=self.refund_unused,
            policies={bucket: policy.to_config(bucket) for bucket, policy in self.allow.items()},
            quotas=self.quotas.to_config(),
            endpoints={
                endpoint_name: WebhookEndpoint(endpoint_name, table.url, table.secret)
                for endpoint_name, table in self.endpoints.items()
            },
            keys={key_name: table.to_config(key_name) for key_name, table in self.keys.items()},
        )


class TenantsFile(Table):
    """The whole file. Validation needs a `fields.ValidationContext` as its context.

    Contradictions between tables are checked elsewhere, by `find_conflicts`.
    """

    buckets: dict[toml_fields.Name, BucketTable] = Field(default_factory=dict)
    tenants: dict[toml_fields.Name, TenantTable] = Field(default_factory=dict)

    def to_config(self) -> TenantConfig:
        """Convert to the worker's form."""
        return TenantConfig(
            buckets={name: bucket.to_config(name) for name, bucket in self.buckets.items()},
            tenants={name: tenant.to_config(name) for name, tenant in self.tenants.items()},
        )


# By the path of a table. A star stands for any name.
_TABLES: dict[tuple[str, ...], type[Table]] = {
    (): TenantsFile,
    ("buckets", "*"): BucketTable,
    ("tenants", "*"): TenantTable,
    ("tenants", "*", "allow", "*"): PolicyTable,
    ("tenants", "*", "endpoints", "*"): WebhookEndpointTable,
    ("tenants", "*", "keys", "*"): KeyTable,
    ("tenants", "*", "quotas"): QuotaTable,
    **{("tenants", "*", "quotas", metric, "*"): limit_table_class(metric) for metric in METRICS},
}
_PYDANTIC_PART = "[key]"  # of pydantic's locations, and not in the file
_TOML_POSITION = re.compile(r" \(at line (\d+), column \d+\)$")


class FileProblem(NamedTuple):
    """An error in the file: its location and line, the cause, and the correction."""

    path: str
    line: int | None
    message: str
    hint: str | None


def read_tenants_file(
    file: Path, *, development: bool, endpoints: DefaultEndpoints = NO_ENDPOINTS
) -> TenantConfig | list[FileProblem]:
    """Read a file and return its config, or all problems with it.

    With development, webhooks may go to http:// URLs and to this machine. endpoints are those
    of bucket profiles that name none. Raises OSError.
    """
    try:
        text = file.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except ValueError as error:
        return [_toml_problem(str(error))]
    context = ValidationContext(_table_names(tables.get("buckets")), development)
    lines = LineIndex(text)
    problems: list[FileProblem] = []
    try:
        config = TenantsFile.model_validate(tables, context=context).to_config()
    except ValidationError as error:
        config = _valid_config(tables, context)
        problems += [_field_problem(e, tables, lines) for e in error.errors(include_url=False)]
    problems += [_conflict_problem(c, lines) for c in find_conflicts(config, endpoints)]
    return sorted(problems, key=lambda problem: problem.line or 0) or config


def _toml_problem(error: str) -> FileProblem:
    position = _TOML_POSITION.search(error)
    line = int(position[1]) if position else None
    hint = "define each table and field once" if error.startswith("Cannot ") else None
    message = f"this is not valid TOML in UTF-8: {_TOML_POSITION.sub('', error)}"
    return FileProblem("", line, message, hint)


def _valid_config(tables: dict[str, Any], context: ValidationContext) -> TenantConfig:
    """Return the bucket profiles and tenants that are valid on their own.

    Their conflicts are then reported together with the errors of the invalid ones.
    """
    buckets: dict[str, Bucket] = {}
    tenants: dict[str, Tenant] = {}
    for name in _table_names(tables.get("buckets")):
        with suppress(ValidationError):
            bucket = BucketTable.model_validate(tables["buckets"][name], context=context)
            buckets[name] = bucket.to_config(name)
    for name in _table_names(tables.get("tenants")):
        with suppress(ValidationError):
            tenant = TenantTable.model_validate(tables["tenants"][name], context=context)
            tenants[name] = tenant.to_config(name)
    return TenantConfig(buckets, tenants)


def _table_names(table: Any) -> tuple[str, ...]:
    return tuple(table) if isinstance(table, dict) else ()


def _conflict_problem(conflict: Conflict, lines: LineIndex) -> FileProblem:
    line, message = lines.find_line(conflict.location), conflict.message
    other_line = lines.find_line(conflict.other_location) if conflict.other_location else None
    if other_line:
        message += f" (line {other_line})"
    return FileProblem(format_location(conflict.location), line, message, conflict.hint)


def _field_problem(error: ErrorDetails, tables: dict[str, Any], lines: LineIndex) -> FileProblem:
    location = tuple(part for part in error["loc"] if part != _PYDANTIC_PART)
    hint = _hint(error, location)
    if _is_plain_limit(location, tables):
        location = location[:-1]
    path, line = format_location(location), lines.find_line(location)
    return FileProblem(path, line, error_message(error), hint)


def _is_plain_limit(location: Location, tables: Any) -> bool:
    """Return true for the limit of a quota that the file writes without a table."""
    if location[2:3] != ("quotas",) or location[-1] != "limit":
        return False
    for part in location[:-1]:
        tables = tables[part]
    return not isinstance(tables, dict)


def _hint(error: ErrorDetails, location: Location) -> str | None:
    *tables, name = (part for part in location if isinstance(part, str))
    table = _find_table(tables)
    if table is None:
        return None
    if error["type"] == "extra_forbidden":
        suggestion = closest_name(name, table.model_fields)
        if suggestion:
            return f"did you mean {suggestion}?"
        return f"the fields here are {', '.join(table.model_fields)}"
    field = table.model_fields.get(name)
    return field.description if field else None


def _find_table(path: list[str]) -> type[Table] | None:
    for pattern, table in _TABLES.items():
        if len(pattern) == len(path) and all(
            step in {"*", name} for step, name in zip(pattern, path, strict=True)
        ):
            return table
    return None
