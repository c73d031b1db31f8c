from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from worker.core.apply.plan import InUseCounts, Removal, find_removals
from worker.core.tenants.config import Tenant, TenantConfig, TenantKey, WebhookEndpoint

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
KEY = TenantKey("billing", "S" * 43, "E" * 43)
ACME = Tenant(
    "acme",
    keys={"billing": KEY, "idle": TenantKey("idle", "T" * 43, "F" * 43)},
    endpoints={name: WebhookEndpoint(name, "https://example.com/", "env:A") for name in ("a", "b")},
)
BEFORE = TenantConfig(tenants={"acme": ACME, "globex": Tenant("globex", "queue")})
IN_USE = InUseCounts(
    live_grants={("acme", "billing"): 7, ("acme", None): 2, ("globex", None): 5},
    pending_webhooks={("acme", "a"): 3},
)
PATH = "tenants.acme.keys.billing"


def removals(**changes: object) -> list[Removal]:
    changed = replace(ACME, **changes)  # type: ignore[arg-type]
    after = replace(BEFORE, tenants={**BEFORE.tenants, "acme": changed})
    return find_removals(BEFORE, after, IN_USE, NOW)


def with_key(key: TenantKey) -> list[Removal]:
    return removals(keys={**ACME.keys, "billing": key})


def test_an_unchanged_tenant_is_no_removal() -> None:
    assert removals() == []


def test_a_removed_tenant_counts_all_its_grants_and_webhooks() -> None:
    after = replace(BEFORE, tenants={"globex": BEFORE.tenants["globex"]})
    assert find_removals(BEFORE, after, IN_USE, NOW) == [Removal("tenants.acme", 9, 3)]


def test_a_removed_tenant_is_a_removal_even_if_nothing_is_in_use() -> None:
    after = replace(BEFORE, tenants={"acme": ACME})
    assert find_removals(BEFORE, after, InUseCounts({}, {}), NOW) == [
        Removal("tenants.globex", 0, 0)
    ]


@pytest.mark.parametrize(
    "key",
    [
        replace(KEY, revoked=True),
        replace(KEY, expires=NOW),
        replace(KEY, sign="U" * 43),
        replace(KEY, seal="U" * 43),
    ],
)
def test_a_key_that_is_disabled_or_replaced_counts_its_grants(key: TenantKey) -> None:
    assert with_key(key) == [Removal(PATH, 7, 0)]


def test_a_removed_key_counts_its_grants() -> None:
    assert removals(keys={"idle": ACME.keys["idle"]}) == [Removal(PATH, 7, 0)]


def test_a_removed_key_without_live_grants_is_no_removal() -> None:
    assert removals(keys={"billing": KEY}) == []


def test_a_key_that_expires_later_is_no_removal() -> None:
    assert with_key(replace(KEY, expires=NOW + timedelta(seconds=1))) == []


def test_revoking_a_key_that_was_not_usable_is_no_removal() -> None:
    before = replace(ACME, keys={"billing": replace(KEY, expires=NOW)})
    after = replace(ACME, keys={"billing": replace(KEY, expires=NOW, revoked=True)})
    result = find_removals(
        TenantConfig(tenants={"acme": before}),
        TenantConfig(tenants={"acme": after}),
        IN_USE,
        NOW,
    )
    assert result == []


def test_a_removed_endpoint_is_a_removal_only_with_pending_webhooks() -> None:
    assert removals(endpoints={}) == [Removal("tenants.acme.endpoints.a", 0, 3)]


def test_a_removal_is_one_readable_line() -> None:
    assert str(Removal(PATH, 1_234, 0)) == f"{PATH}: 1,234 live grants, 0 pending webhooks"
