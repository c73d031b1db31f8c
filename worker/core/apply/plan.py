"""What applying a tenants file changes and removes, and what its operator should know."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from worker.core.apply.diff import FieldChange, diff_config
from worker.core.tenants.config import Tenant, TenantConfig, TenantKey


class InUse(NamedTuple):
    """Grants that have not lapsed, by tenant and key; unsent webhooks, by tenant and endpoint."""

    grants: Mapping[tuple[str, str | None], int]
    webhooks: Mapping[tuple[str, str], int]


class Removal(NamedTuple):
    """A tenant, key or endpoint that is taken away, and what is under way of it."""

    path: str
    live_grants: int
    pending_webhooks: int

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.live_grants:,} live grants,"
            f" {self.pending_webhooks:,} pending webhooks"
        )


def find_removals(
    before: TenantConfig, after: TenantConfig, under_way: InUse, now: datetime
) -> list[Removal]:
    """Every removed tenant; and removed, replaced or revoked keys and endpoints that are in use."""
    found: list[Removal] = []
    for name, tenant in before.tenants.items():
        if name in after.tenants:
            found += _of_keys(tenant, after.tenants[name], under_way, now)
            found += _of_endpoints(tenant, after.tenants[name], under_way)
        else:
            found.append(Removal(f"tenants.{name}", *_of_all(name, under_way)))
    return found


def _of_all(tenant: str, under_way: InUse) -> tuple[int, int]:
    grants = sum(count for (name, _), count in under_way.grants.items() if name == tenant)
    webhooks = sum(count for (name, _), count in under_way.webhooks.items() if name == tenant)
    return grants, webhooks


def _of_keys(before: Tenant, after: Tenant, under_way: InUse, now: datetime) -> Iterator[Removal]:
    for name, key in before.keys.items():
        grants = under_way.grants.get((before.name, name), 0)
        new = after.keys.get(name)
        stays = new is not None and (new.sign, new.seal) == (key.sign, key.seal)
        ends = is_usable_key(key, now) and not is_usable_key(new, now)
        if grants and (ends or not stays):
            yield Removal(f"tenants.{before.name}.keys.{name}", grants, 0)


def _of_endpoints(before: Tenant, after: Tenant, under_way: InUse) -> Iterator[Removal]:
    for name in sorted(before.endpoints.keys() - after.endpoints.keys()):
        webhooks = under_way.webhooks.get((before.name, name), 0)
        if webhooks:
            yield Removal(f"tenants.{before.name}.endpoints.{name}", 0, webhooks)


EXPIRY_NOTICE = timedelta(days=30)
"""So long before its end it is said that a key expires."""


class ConfigWarning(NamedTuple):
    """One of these: what, of which tenant and key, in a sentence, and what to do."""

    code: Literal["trusts_queue", "no_usable_key", "key_expired", "key_expires_soon"]
    tenant: str
    key: str | None
    message: str
    hint: str


def config_warnings(declared: TenantConfig, now: datetime) -> list[ConfigWarning]:
    """Who trusts the queue, whose keys have expired or soon will, and who has none to use."""
    return [risk for tenant in declared.tenants.values() for risk in _of_tenant(tenant, now)]


def is_usable_key(key: TenantKey | None, now: datetime) -> bool:
    """Whether what a key signs is taken at this moment."""
    return key is not None and not key.revoked and (key.expires is None or now < key.expires)


def _of_tenant(tenant: Tenant, now: datetime) -> Iterator[ConfigWarning]:
    keygen = f"valetkey keygen {tenant.name}"
    if tenant.trust == "queue":
        text = f"{tenant.name} trusts the queue: whoever can write to it speaks for {tenant.name}"
        yield ConfigWarning("trusts_queue", tenant.name, None, text, f"give it keys: {keygen}")
    elif not any(is_usable_key(key, now) for key in tenant.keys.values()):
        text = f"{tenant.name} has no usable key: everything it asks is refused"
        yield ConfigWarning("no_usable_key", tenant.name, None, text, f"make one: {keygen}")
    for key in tenant.keys.values():
        yield from _of_key(tenant.name, key, now)


def _of_key(tenant: str, key: TenantKey, now: datetime) -> Iterator[ConfigWarning]:
    if key.expires is None or key.revoked or now + EXPIRY_NOTICE < key.expires:
        return
    day = f"{key.expires:%Y-%m-%d %H:%M} UTC"
    if key.expires <= now:
        text = f"key {tenant}/{key.name} expired on {day}: what it signs is refused"
        yield ConfigWarning("key_expired", tenant, key.name, text, "remove it once nothing uses it")
    else:
        text = f"key {tenant}/{key.name} expires on {day}"
        hint = f"declare a second one before that: valetkey keygen {tenant}"
        yield ConfigWarning("key_expires_soon", tenant, key.name, text, hint)


class ApplyPlan(NamedTuple):
    """What changes, what is lost by it, and what to know of what is declared then."""

    changes: list[FieldChange]
    losses: list[Removal]
    risks: list[ConfigWarning]

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        named = {name: [one._asdict() for one in getattr(self, name)] for name in self._fields}
        return named | {"trusts_queue": [r.tenant for r in self.risks if r.code == "trusts_queue"]}


def plan_apply(
    before: TenantConfig, after: TenantConfig, under_way: InUse, now: datetime
) -> ApplyPlan:
    """Plan to have after declared instead of before."""
    return ApplyPlan(
        diff_config(before, after),
        find_removals(before, after, under_way, now),
        config_warnings(after, now),
    )
