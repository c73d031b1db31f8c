"""Who may have what, as the worker holds it in memory: the content of tenants.toml."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from valetkey.wire.refusals import Metric, Window
from valetkey.wire.terms import MAX_EXPIRES_IN

Addressing = Literal["virtual", "path"]
Provider = Literal["aws", "r2", "other"]
Kind = Literal["download", "upload", "put", "multipart"]


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket profile: producers name it, and never the real bucket behind it.

    endpoint is signed for, as clients reach it; internal_endpoint is where the worker itself calls.
    post says whether storage takes forms; owner is the AWS account whose bucket it must be.
    max_expires_in is the provider's longest life and role_seconds a role's session, in seconds.
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
    fips: bool = False
    dualstack: bool = False
    accelerate: bool = False
    owner: str | None = None
    max_expires_in: int = MAX_EXPIRES_IN
    role_arn: str | None = None
    external_id: str | None = field(default=None, repr=False)
    role_seconds: int = 3_600


@dataclass(frozen=True, slots=True)
class Policy:
    """What one tenant may ask for in one bucket profile. Lives in seconds, sizes in bytes.

    overrides are response headers that a download may set, inline the content types it may show;
    redirects are URLs that an upload's success_redirect may begin with; with free_names a form's
    key may end in ${filename}; without overwrite no put replaces an object. callbacks are the
    endpoints that may be told (None: any of the tenant's), max_batch goes before the tenant's;
    shared says that another tenant's prefixes may overlap, if its policy says so too.
    """

    bucket: str
    prefixes: tuple[str, ...]
    kinds: tuple[Kind, ...]
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
    callbacks: tuple[str, ...] | None = None
    max_batch: int | None = None
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Quota:
    """How much of a metric may be granted in one window of UTC; from warn_at on there are warnings.

    The window live has what was granted and has not lapsed.
    """

    metric: Metric
    window: Window
    limit: int
    warn_at: int | None = None


@dataclass(frozen=True, slots=True)
class QuotaOverride:
    """So much more than its limit a quota has until a moment."""

    metric: Metric
    window: Window
    extra: int
    until: datetime


@dataclass(frozen=True, slots=True)
class TenantKey:
    """A public key of a tenant: sign checks messages, answers are sealed to seal (base64url)."""

    name: str
    sign: str
    seal: str
    expires: datetime | None = None
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where webhooks go; secret says where the secret is kept (env:NAME, file:PATH)."""

    name: str
    url: str
    secret: str


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whom a producer acts for.

    Only its keys speak for it; or, where it trusts the queue, whoever can write there, too.
    raises are not declared with it, and stay where it is declared anew.
    """

    name: str
    trust: Literal["keys", "queue"] = "keys"
    max_batch: int = 100_000
    policies: Mapping[str, Policy] = field(default_factory=dict)
    quotas: tuple[Quota, ...] = ()
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    keys: Mapping[str, TenantKey] = field(default_factory=dict)
    raises: tuple[QuotaOverride, ...] = ()


@dataclass(frozen=True, slots=True)
class TenantConfig:
    """Everything that was declared, by name."""

    buckets: Mapping[str, Bucket] = field(default_factory=dict)
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
