"""Who may have what, as the worker holds it in memory: the content of tenants.toml."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from valetkey.refusals import Metric, Window

Addressing = Literal["virtual", "path"]
Kind = Literal["download", "upload"]


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket profile: producers name it, and never the real bucket behind it."""

    name: str
    bucket: str
    region: str
    addressing: Addressing = "virtual"
    endpoint: str | None = None
    profile: str | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What one tenant may ask for in one bucket profile. Lives in seconds, sizes in bytes."""

    bucket: str
    prefixes: tuple[str, ...]
    kinds: tuple[Kind, ...]
    max_expires_in: int = 3_600
    max_size: int = 0
    content_types: tuple[str, ...] = ("application/octet-stream",)
    acls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Quota:
    """How much of a metric may be granted in one window of UTC."""

    metric: Metric
    window: Window
    limit: int


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where webhooks go; secret says where the secret is kept (env:NAME, file:PATH)."""

    name: str
    url: str
    secret: str


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whom a producer acts for."""

    name: str
    trust: Literal["queue"]
    max_batch: int = 100_000
    policies: Mapping[str, Policy] = field(default_factory=dict)
    quotas: tuple[Quota, ...] = ()
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Declared:
    """Everything that was declared, by name."""

    buckets: Mapping[str, Bucket] = field(default_factory=dict)
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
