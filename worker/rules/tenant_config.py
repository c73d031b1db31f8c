"""The tenant config: the fields of tenants.toml, with their types, defaults and descriptions.

The docstring of a field is the hint in its errors, and its text in docs/tenants.md. Only
tenants.toml is validated: code creates these objects without checks. What contradicts another
field is found by `worker.tenants.config_conflicts`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import count
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetPydanticSchema,
    StrictBool,
    ValidationInfo,
)
from pydantic_core.core_schema import CoreSchema, no_info_after_validator_function

from valetkey.wire.events import EventType
from valetkey.wire.refusals import Metric, Window
from valetkey.wire.terms import MAX_EXPIRES_IN, PolicyKind, StorageClass
from worker.rules import config_values as values
from worker.rules.config_values import NOT_EMPTY, Name, NotInFile, TableName, add_names, value_error

Addressing = Literal["virtual", "path"]
Provider = Literal["aws", "r2", "other"]


class _Table:
    """The base of all tables. Unknown fields are refused: a misspelled limit would do nothing."""

    __slots__ = ()
    __pydantic_config__ = ConfigDict(
        extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )


def _check_role_is_set(value: Any, info: ValidationInfo) -> Any:
    # An invalid role_arn is missing from data, and has an error of its own.
    if info.data.get("role_arn", "invalid") is None:
        raise value_error("this has no effect without role_arn: add role_arn or remove this")
    return value


@dataclass(frozen=True, slots=True)
class Bucket(_Table):
    """[buckets.NAME]: a bucket profile.

    Producers name the profile and never the real bucket behind it.
    """

    name: TableName
    bucket: values.BucketName
    """the name of the real bucket, like acme-reports, or an access point's ARN"""
    region: values.Region
    """the region in signatures, like eu-central-1"""
    addressing: Addressing = "virtual"
    """ "virtual" or "path" """
    endpoint: values.S3Endpoint | None = None
    """the address that the users of links reach, like https://s3.example.com"""
    profile: values.AwsProfile | None = None
    """a profile of the AWS configuration, 1 to 255 characters"""
    internal_endpoint: values.S3Endpoint | None = None
    """the address that this worker reaches, like http://minio:9000"""
    provider: Provider = "aws"
    """ "aws", "r2" or "other" """
    post: StrictBool = True
    """true if the storage accepts POST forms"""
    conditional_writes: StrictBool = True
    """false if the storage ignores If-None-Match of a PUT"""
    versioned: StrictBool = False
    """true if the bucket keeps earlier versions of its objects"""
    fips: StrictBool = False
    """true selects Amazon's FIPS endpoint"""
    dualstack: StrictBool = False
    """true selects Amazon's endpoint with IPv6"""
    accelerate: StrictBool = False
    """true selects S3 Transfer Acceleration"""
    owner: values.AwsAccount | None = None
    """the account that owns the bucket, a string like "111122223333" """
    max_expires_in: values.ExpiresIn = MAX_EXPIRES_IN
    """seconds, or like 12h: the longest that the provider allows, 7d at most"""
    role_arn: values.RoleArn | None = None
    """the role that signs, like arn:aws:iam::111122223333:role/valetkey"""
    external_id: Annotated[values.ExternalId | None, AfterValidator(_check_role_is_set)] = field(
        default=None, repr=False
    )
    """the external id that the role's trust policy requires"""
    role_seconds: Annotated[values.RoleSeconds, AfterValidator(_check_role_is_set)] = 3_600
    """seconds of a session, or like 1h: 15m to the role's maximum, 12h at most"""
    events_queue: values.QueueUrl | None = None
    """the URL of the SQS queue that gets the bucket's event notifications"""
    probe_rate: values.ProbeRate = 20
    """requests a second, 0 to 1,000, that ask storage what upload slots stored"""
    sessions_from: NotInFile[datetime | None] = field(default=None, compare=False)
    """The role's sessions from before this time were ended: they sign nothing any more.

    `revoke` sets it for all profiles of a role, and `apply` keeps it.
    """


def is_ordinary_bucket(name: str) -> bool:
    """Return True if the name is neither that of an access point nor of a directory bucket."""
    return not name.startswith("arn:") and not name.endswith(("--x-s3", "--xa-s3"))


def _add_provider_defaults(table: Any) -> Any:
    """Add provider and post to a bucket profile in the file, whose defaults depend on others."""
    if not isinstance(table, dict):
        return table
    table = {"provider": "aws" if table.get("endpoint") is None else "other", **table}
    is_ordinary = is_ordinary_bucket(str(table.get("bucket", "")))
    return {"post": is_ordinary and table["provider"] != "r2", **table}


@dataclass(frozen=True, slots=True)
class Policy(_Table):
    """[tenants.NAME.allow.BUCKET]: the requests that a tenant may make in a bucket profile."""

    bucket: TableName
    prefixes: Annotated[tuple[values.Prefix, ...], NOT_EMPTY]
    """like ["acme/"], or ["*"] for the whole bucket"""
    kinds: Annotated[tuple[PolicyKind, ...], NOT_EMPTY]
    """an array of "download", "upload", "put" and "multipart" """
    max_expires_in: values.ExpiresIn = 3_600
    """seconds, or a duration like 15m or 12h, 7d at most"""
    max_size: values.UploadSize = 0
    """bytes of one upload, or a size like 500KiB or 5GiB, 5TiB at most"""
    content_types: Annotated[tuple[values.ContentType, ...], NOT_EMPTY] = (
        "application/octet-stream",
    )
    """like ["image/*", "application/pdf"]"""
    acls: tuple[values.CannedAcl, ...] = ()
    """like ["bucket-owner-full-control"]"""
    inline: tuple[values.ExactContentType, ...] = ()
    """types that a download may display in the browser, like ["image/png"]"""
    overrides: tuple[
        Literal["cache_control", "content_language", "content_encoding", "expires"], ...
    ] = ()
    """like ["cache_control"]"""
    storage_classes: tuple[StorageClass, ...] = ()
    """like ["STANDARD_IA"]"""
    kms_keys: tuple[values.KmsKey, ...] = ()
    """like ["arn:aws:kms:eu-central-1:111122223333:key/1234abcd-…"]"""
    redirects: tuple[values.Redirect, ...] = ()
    """like ["https://app.example.com/done/"]"""
    free_names: StrictBool = False
    """true lets a form's key end in ${filename}"""
    overwrite: StrictBool = False
    """true lets a put replace an object"""
    plain: StrictBool = False
    """true allows links that leave the response to the stored object"""
    callbacks: tuple[Name, ...] | None = None
    """endpoints that may receive webhooks, like ["billing"]; unset: all of them"""
    max_batch: values.BatchSize | None = None
    """items in one request, a whole number from 1 to 1,000,000"""
    shared: StrictBool = False
    """true lets another tenant's prefixes overlap, if its policy is shared too"""


@dataclass(frozen=True, slots=True)
class Quota:
    """The limit of one metric in one window.

    Windows are aligned to UTC, except live: it counts grants that have not expired, the bytes of
    upload slots until they are settled, and what is stored. Once usage reaches warn_at, results and
    the log contain warnings.
    """

    metric: Metric
    window: Window
    limit: int
    warn_at: int | None = None


@dataclass(frozen=True, slots=True)
class QuotaOverride:
    """A temporary increase of one quota: extra is added to its limit until the given time."""

    metric: Metric
    window: Window
    extra: int
    expires_at: datetime


def _parse_percentage(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str) or not value.endswith("%"):
        return value
    digits = value.removesuffix("%").strip()
    if not (digits.isascii() and digits.isdecimal() and 1 <= int(digits) <= 100):  # noqa: PLR2004 - percent
        raise value_error('a percentage of the limit is "1%" to "100%", in whole percent')
    limit = info.data.get("limit")
    if limit is None:  # the limit itself is invalid, and has an error of its own
        return None
    return -(-limit * int(digits) // 100)  # rounded up


def _check_warn(value: int | None, info: ValidationInfo) -> int | None:
    limit = info.data.get("limit")
    if value is not None and limit is not None and value > limit:
        raise value_error(f"usage never reaches a warning above the limit: write {limit} or less")
    return value


_WARN = AfterValidator(_check_warn), BeforeValidator(_parse_percentage)


@dataclass(frozen=True, slots=True)
class QuotaLimit(_Table):
    """{ limit = …, warn = … }: a limit and the usage from which warnings are sent."""

    limit: values.CountLimit
    """a whole number"""
    warn: Annotated[values.CountLimit | None, *_WARN] = None
    """a number up to the limit, or a percentage like "80%" """


@dataclass(frozen=True, slots=True)
class ByteQuotaLimit(_Table):
    """{ limit = …, warn = … } in bytes."""

    limit: values.ByteLimit
    """bytes, or a size like 500KiB or 10GiB"""
    warn: Annotated[values.ByteLimit | None, *_WARN] = None
    """a size up to the limit, or a percentage like "80%" """


ONLY_LIVE_QUOTA = "stored_bytes counts what is stored now: its only window is live"


def _check_only_live(windows: Any) -> Any:
    if isinstance(windows, dict) and not windows.keys() <= {"live"}:
        raise value_error(ONLY_LIVE_QUOTA)
    return windows


_PLAIN_LIMIT = BeforeValidator(lambda value: value if isinstance(value, dict) else {"limit": value})
_CountLimits = Mapping[Window, Annotated[QuotaLimit, _PLAIN_LIMIT]]
_ByteLimits = Mapping[Window, Annotated[ByteQuotaLimit, _PLAIN_LIMIT]]


@dataclass(frozen=True, slots=True)
class QuotaLimits(_Table):
    """[tenants.NAME.quotas]: limits by metric and window. All windows but live are in UTC.

    A plain value in place of a table is its limit.
    """

    grants: _CountLimits = field(default_factory=dict)
    """numbers of grants of every kind, like { hour = 50_000, live = { limit = 100, warn = 80 } }"""
    download_grants: _CountLimits = field(default_factory=dict)
    """numbers of downloads, like { day = 50_000 }"""
    stored_bytes: Annotated[_ByteLimits, BeforeValidator(_check_only_live)] = field(
        default_factory=dict
    )
    """what is stored, like { live = "1TiB" }"""
    upload_bytes: _ByteLimits = field(default_factory=dict)
    """what uploads may store, like { month = { limit = "500GiB", warn = "80%" } }"""

    def to_quotas(self) -> tuple[Quota, ...]:
        """Return the quotas in the order of the database's primary key."""
        metrics: tuple[Metric, ...] = get_args(Metric)
        return tuple(
            Quota(metric, window, limit.limit, limit.warn)
            for metric in sorted(metrics)
            for window, limit in sorted(getattr(self, metric).items())
        )


def _read_quota_limits(_: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
    return no_info_after_validator_function(QuotaLimits.to_quotas, handler(QuotaLimits))


@dataclass(frozen=True, slots=True)
class TenantKey(_Table):
    """NAME = { sign = …, seal = … }: two public keys, as `valetkey keygen` prints them.

    sign verifies the tenant's messages. Responses are encrypted to seal.
    """

    name: TableName
    sign: values.PublicKey
    """copy the line that `valetkey keygen` prints"""
    seal: values.PublicKey
    """copy the line that `valetkey keygen` prints"""
    expires: values.Time | None = None
    """like 2027-11-25, which is 00:00 UTC, or 2027-11-25T08:30:00Z"""
    revoked: StrictBool = False
    """true refuses the key's messages as key_revoked"""


def is_usable_key(key: TenantKey | None, now: datetime) -> bool:
    """Return True if the service accepts messages that this key signed."""
    return key is not None and not key.revoked and (key.expires is None or now < key.expires)


@dataclass(frozen=True, slots=True)
class WebhookEndpoint(_Table):
    """[tenants.NAME.endpoints.NAME]: an endpoint that a request's callback can name."""

    name: TableName
    url: str
    """an https:// URL with a public host name and port 443 or 8443"""
    secret: Annotated[str, Field(max_length=2_048)]
    """a reference like "env:NAME" or "file:PATH", 2,048 characters at most"""
    events: Annotated[tuple[EventType, ...], NOT_EMPTY] | None = None
    """types of webhooks that it receives, like ["grants.decided"]; unset: all of them"""
    thin: StrictBool = False
    """true sends the number of granted items and no links: the receiver claims them as a client"""

    def wants(self, event: str) -> bool:
        """Return true if the endpoint receives webhooks of this type."""
        return self.events is None or event in self.events


_NAMED = BeforeValidator(add_names)


@dataclass(frozen=True, slots=True)
class Tenant(_Table):
    """[tenants.NAME]: an account that producers act for.

    With trust = "keys" the service accepts only messages that one of its keys signed. With
    trust = "queue" it also accepts unsigned messages.

    Rows of requests have the tenant's id, which no other tenant ever had. The first tenant of a
    name has the name as its id. created_at is None if it is unknown. quota_overrides are added by
    operators, and kept by `apply`. config_change is the number of the newest change of the config
    from which the tenant was loaded.
    """

    name: TableName
    trust: Literal["keys", "queue"] = "keys"
    """ "keys", or "queue": anyone who can write to the queue can act for the tenant"""
    max_batch: values.BatchSize = 100_000
    """items in one request, a whole number from 1 to 1,000,000"""
    refund_unused: StrictBool = True
    """false keeps the bytes of unused upload slots charged"""
    max_waiting: values.MaxWaiting | None = None
    """messages that may wait, a whole number from 64, which one batch needs, to 10,000,000"""
    max_waiting_age: values.MaxWaitingAge | None = None
    """seconds that the oldest may wait, a whole number from 1 to 86,400"""
    policies: Annotated[Mapping[str, Policy], _NAMED, Field(alias="allow")] = field(
        default_factory=dict
    )
    quotas: Annotated[
        tuple[Quota, ...], GetPydanticSchema(_read_quota_limits), Field(exclude=True)
    ] = ()
    endpoints: Annotated[Mapping[Name, WebhookEndpoint], _NAMED] = field(default_factory=dict)
    keys: Annotated[Mapping[Name, TenantKey], _NAMED] = field(default_factory=dict)
    quota_overrides: NotInFile[tuple[QuotaOverride, ...]] = ()
    id: NotInFile[str] = ""
    created_at: NotInFile[datetime | None] = field(default=None, compare=False)  # follows from id
    config_change: NotInFile[int] = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", self.name)

    @property
    def replaces_another(self) -> bool:
        """True if an earlier tenant of the same name was removed."""
        return self.id != self.name


class TenantAccess(NamedTuple):
    """A bucket profile, and a tenant with its policy for it."""

    bucket: Bucket
    tenant: Tenant
    policy: Policy


@dataclass(frozen=True, slots=True)
class TenantConfig(_Table):
    """All bucket profiles and tenants, by name: the whole file."""

    buckets: Annotated[
        Mapping[Name, Annotated[Bucket, BeforeValidator(_add_provider_defaults)]], _NAMED
    ] = field(default_factory=dict)
    tenants: Annotated[Mapping[Name, Tenant], _NAMED] = field(default_factory=dict)

    def tenant_by_id(self, tenant_id: str) -> Tenant | None:
        """Return the tenant with this id, or None if it was removed.

        Use it for the ids in rows: their tenant may have been removed, and its name used again.
        """
        tenant = self.tenants.get(tenant_id)  # the usual case: the id is the name
        if tenant is not None and tenant.id == tenant_id:
            return tenant
        return next((t for t in self.tenants.values() if t.id == tenant_id), None)

    def find_bucket(
        self, is_wanted: Callable[[Bucket], bool], preferred: Iterable[str]
    ) -> Bucket | None:
        """Return a wanted bucket profile: the first of the preferred names, else any, else None."""
        wanted = {name: bucket for name, bucket in self.buckets.items() if is_wanted(bucket)}
        return next((wanted[name] for name in (*preferred, *wanted) if name in wanted), None)

    def find_access(self, tenant_id: str, bucket: str) -> TenantAccess | None:
        """Return the access of a row's tenant to a bucket profile, or None if it has none today."""
        tenant = self.tenant_by_id(tenant_id)
        policy = None if tenant is None else tenant.policies.get(bucket)
        profile = self.buckets.get(bucket)
        if tenant is None or policy is None or profile is None:
            return None
        return TenantAccess(profile, tenant, policy)


class DefaultEndpoints(NamedTuple):
    """The endpoints of bucket profiles that name none.

    public is in signed URLs; None means AWS. internal receives the service's own requests; None
    means the public one.
    """

    public: str | None = None
    internal: str | None = None

    def public_of(self, bucket: Bucket) -> str | None:
        """Return the endpoint in the signed URLs of a bucket profile; None means AWS."""
        if bucket.endpoint is not None:
            return bucket.endpoint
        return None if _selects_aws(bucket) else self.public

    def internal_of(self, bucket: Bucket) -> str | None:
        """Return the endpoint that the service calls for a bucket profile; None means AWS.

        The default applies only to profiles whose public endpoint is the default as well.
        """
        if bucket.internal_endpoint is not None:
            return bucket.internal_endpoint
        uses_defaults = bucket.endpoint is None and not _selects_aws(bucket)
        internal = self.internal if uses_defaults else None
        return self.public_of(bucket) if internal is None else internal


NO_ENDPOINTS = DefaultEndpoints()


def _selects_aws(bucket: Bucket) -> bool:
    return bucket.fips or bucket.dualstack or bucket.accelerate


MAX_ID_LENGTH = 63
"""The length of the columns that contain ids; names have up to the same length."""


def assign_ids(
    before: TenantConfig,
    after: TenantConfig,
    used_ids: Collection[str],
    now: datetime,
    restored_ids: Mapping[str, str] = MappingProxyType({}),
) -> TenantConfig:
    """Return the config `after` with the id and the creation time of each of its tenants.

    A tenant that `before` has keeps both. restored_ids has those of removed tenants that exist
    again, by name. Any other one is new, and gets an id that is not one of used_ids, which are
    those of all existing and removed tenants.
    """
    used = set(used_ids)
    tenants = {}
    for name, tenant in after.tenants.items():
        old = before.tenants.get(name)
        if old is not None:
            id_, created_at = old.id, old.created_at
        elif name in restored_ids:
            id_, created_at = restored_ids[name], None  # the database has it
        else:
            id_, created_at = _new_id(name, used), now
        used.add(id_)
        tenants[name] = replace(tenant, id=id_, created_at=created_at)
    return replace(after, tenants=tenants)


def _new_id(name: str, used: Collection[str]) -> str:
    """Return NAME, or else the first of NAME~2, NAME~3, … that is not used.

    Names have no tilde. A long name is cut, so that the id fits into its columns.
    """
    if name not in used:
        return name
    suffixes = (f"~{number}" for number in count(2))
    ids = (f"{name[: MAX_ID_LENGTH - len(suffix)]}{suffix}" for suffix in suffixes)
    return next(id_ for id_ in ids if id_ not in used)
