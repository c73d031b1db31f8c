"""The in-memory form of tenants.toml: tenants, their policies, quotas and keys, and buckets."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import count
from typing import Literal, NamedTuple

from valetkey.wire.refusals import Metric, Window
from valetkey.wire.terms import MAX_EXPIRES_IN, PolicyKind

Addressing = Literal["virtual", "path"]
Provider = Literal["aws", "r2", "other"]


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket profile. Producers name the profile and never the real bucket behind it.

    Signed URLs contain endpoint, the address that clients reach. The worker sends its own requests
    to internal_endpoint. post is true if the storage accepts POST forms, conditional_writes if it
    refuses a PUT with If-None-Match where the object exists. versioned is true if the bucket keeps
    earlier versions of objects. owner is the AWS account that the
    bucket must belong to. max_expires_in is the longest validity that the provider allows and
    role_seconds the duration of a role's session, both in seconds. events_queue is the URL of the
    SQS queue that gets the bucket's event notifications. probe_rate is the largest number of
    requests a second that ask storage for the objects of ended upload slots; 0 asks for none.
    The role's sessions from before sessions_from were ended: they sign nothing any more. It is no
    field of tenants.toml: `revoke` sets it for all profiles of a role, and `apply` keeps it.
    """

    name: str
    bucket: str
    region: str
    addressing: Addressing = "virtual"
    endpoint: str | None = None
    profile: str | None = None
    internal_endpoint: str | None = None
    provider: Provider = "aws"
    post: bool = True
    conditional_writes: bool = True
    versioned: bool = False
    fips: bool = False
    dualstack: bool = False
    accelerate: bool = False
    owner: str | None = None
    max_expires_in: int = MAX_EXPIRES_IN
    role_arn: str | None = None
    external_id: str | None = field(default=None, repr=False)
    role_seconds: int = 3_600
    events_queue: str | None = None
    probe_rate: int = 20
    sessions_from: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Policy:
    """The requests that one tenant may make in one bucket profile.

    max_expires_in is in seconds and max_size in bytes. overrides lists the response headers that a
    download may set, and inline the content types that it may display in the browser. redirects
    lists the pages and folders to which an upload's success_redirect may lead. With free_names a
    form's object key may end in ${filename}. Without overwrite a put never replaces an object. With
    plain a download may be a link without response headers and grant id. callbacks lists the
    endpoints that may receive webhooks (None: any endpoint of the tenant). max_batch, if set, takes
    precedence over the tenant's. shared permits an overlap with another tenant's prefixes if that
    tenant's policy is shared too.
    """

    bucket: str
    prefixes: tuple[str, ...]
    kinds: tuple[PolicyKind, ...]
    max_expires_in: int = 3_600
    max_size: int = 0
    content_types: tuple[str, ...] = ("application/octet-stream",)
    acls: tuple[str, ...] = ()
    inline: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    storage_classes: tuple[str, ...] = ()
    kms_keys: tuple[str, ...] = ()
    redirects: tuple[str, ...] = ()
    free_names: bool = False
    overwrite: bool = False
    plain: bool = False
    callbacks: tuple[str, ...] | None = None
    max_batch: int | None = None
    shared: bool = False


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


@dataclass(frozen=True, slots=True)
class TenantKey:
    """A pair of public keys of a tenant, each in base64url.

    sign verifies the tenant's messages. Responses are encrypted to seal.
    """

    name: str
    sign: str
    seal: str
    expires: datetime | None = None
    revoked: bool = False


def is_usable_key(key: TenantKey | None, now: datetime) -> bool:
    """Return True if the service accepts messages that this key signed."""
    return key is not None and not key.revoked and (key.expires is None or now < key.expires)


@dataclass(frozen=True, slots=True)
class WebhookEndpoint:
    """A webhook endpoint. secret is a reference to the secret: env:NAME or file:PATH."""

    name: str
    url: str
    secret: str


@dataclass(frozen=True, slots=True)
class Tenant:
    """The account that a producer acts for.

    With trust = "keys" the service accepts only messages that one of its keys signed. With
    trust = "queue" it also accepts unsigned messages, from anyone who can write to the queue.
    With refund_unused, the bytes that an upload slot reserved and did not use are given back when
    it ends. quota_overrides are added by operators. tenants.toml has none, and `apply` keeps them.

    Rows of requests have the tenant's id, which no other tenant ever had. The first tenant of a
    name has the name as its id. created_at is None if it is unknown.
    """

    name: str
    trust: Literal["keys", "queue"] = "keys"
    max_batch: int = 100_000
    refund_unused: bool = True
    policies: Mapping[str, Policy] = field(default_factory=dict)
    quotas: tuple[Quota, ...] = ()
    endpoints: Mapping[str, WebhookEndpoint] = field(default_factory=dict)
    keys: Mapping[str, TenantKey] = field(default_factory=dict)
    quota_overrides: tuple[QuotaOverride, ...] = ()
    id: str = ""
    created_at: datetime | None = field(default=None, compare=False)  # follows from the id

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
class TenantConfig:
    """All bucket profiles and tenants, by name."""

    buckets: Mapping[str, Bucket] = field(default_factory=dict)
    tenants: Mapping[str, Tenant] = field(default_factory=dict)

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
    before: TenantConfig, after: TenantConfig, used_ids: Collection[str], now: datetime
) -> TenantConfig:
    """Return the config `after` with the id and the creation time of each of its tenants.

    A tenant that `before` has keeps both. Any other one is new, and gets an id that is not one of
    used_ids, which are those of all existing and removed tenants.
    """
    used = set(used_ids)
    tenants = {}
    for name, tenant in after.tenants.items():
        old = before.tenants.get(name)
        id_, created_at = (_new_id(name, used), now) if old is None else (old.id, old.created_at)
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
