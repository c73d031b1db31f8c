"""What is still under way of what a declaration takes away."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from worker.core.risks import usable
from worker.core.tenancy import Declared, Tenant


class UnderWay(NamedTuple):
    """Grants that have not lapsed, by tenant and key; unsent webhooks, by tenant and endpoint."""

    grants: Mapping[tuple[str, str | None], int]
    webhooks: Mapping[tuple[str, str], int]


class Loss(NamedTuple):
    """A tenant, key or endpoint that is taken away, and what is under way of it."""

    path: str
    live_grants: int
    pending_webhooks: int

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.live_grants:,} live grants,"
            f" {self.pending_webhooks:,} pending webhooks"
        )


def losses(before: Declared, after: Declared, under_way: UnderWay, now: datetime) -> list[Loss]:
    """Every removed tenant; and removed, replaced or revoked keys and endpoints that are in use."""
    found: list[Loss] = []
    for name, tenant in before.tenants.items():
        if name in after.tenants:
            found += _of_keys(tenant, after.tenants[name], under_way, now)
            found += _of_endpoints(tenant, after.tenants[name], under_way)
        else:
            found.append(Loss(f"tenants.{name}", *_of_all(name, under_way)))
    return found


def _of_all(tenant: str, under_way: UnderWay) -> tuple[int, int]:
    grants = sum(count for (name, _), count in under_way.grants.items() if name == tenant)
    webhooks = sum(count for (name, _), count in under_way.webhooks.items() if name == tenant)
    return grants, webhooks


def _of_keys(before: Tenant, after: Tenant, under_way: UnderWay, now: datetime) -> Iterator[Loss]:
    for name, key in before.keys.items():
        grants = under_way.grants.get((before.name, name), 0)
        new = after.keys.get(name)
        stays = new is not None and (new.sign, new.seal) == (key.sign, key.seal)
        ends = usable(key, now) and not usable(new, now)
        if grants and (ends or not stays):
            yield Loss(f"tenants.{before.name}.keys.{name}", grants, 0)


def _of_endpoints(before: Tenant, after: Tenant, under_way: UnderWay) -> Iterator[Loss]:
    for name in sorted(before.endpoints.keys() - after.endpoints.keys()):
        webhooks = under_way.webhooks.get((before.name, name), 0)
        if webhooks:
            yield Loss(f"tenants.{before.name}.endpoints.{name}", 0, webhooks)
