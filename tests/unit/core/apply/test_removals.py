from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from worker.core.apply.plan import InUse, Removal, find_removals
from worker.core.tenants.config import Endpoint, Tenant, TenantConfig, TenantKey

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
KEY = TenantKey("billing", "S" * 43, "E" * 43)
ACME = Tenant(
    "acme",
    keys={"billing": KEY, "idle": TenantKey("idle", "T" * 43, "F" * 43)},
    endpoints={name: Endpoint(name, "https://example.com/", "env:A") for name in ("a", "b")},
)
BEFORE = TenantConfig(tenants={"acme": ACME, "globex": Tenant("globex", "queue")})
UNDER_WAY = InUse(
    grants={("acme", "billing"): 7, ("acme", None): 2, ("globex", None): 5},
    webhooks={("acme", "a"): 3},
)
PATH = "tenants.acme.keys.billing"


def lost(**acme: object) -> list[Removal]:
    changed = replace(ACME, **acme)  # type: ignore[arg-type]
    after = replace(BEFORE, tenants={**BEFORE.tenants, "acme": changed})
    return find_removals(BEFORE, after, UNDER_WAY, NOW)


def with_key(key: TenantKey) -> list[Removal]:
    return lost(keys={**ACME.keys, "billing": key})


def test_what_stays_is_no_loss() -> None:
    assert lost() == []


def test_a_removed_tenant_has_all_its_grants_and_webhooks() -> None:
    after = replace(BEFORE, tenants={"globex": BEFORE.tenants["globex"]})
    assert find_removals(BEFORE, after, UNDER_WAY, NOW) == [Removal("tenants.acme", 9, 3)]


def test_a_removed_tenant_is_a_loss_even_where_nothing_is_under_way() -> None:
    after = replace(BEFORE, tenants={"acme": ACME})
    assert find_removals(BEFORE, after, InUse({}, {}), NOW) == [Removal("tenants.globex", 0, 0)]


@pytest.mark.parametrize(
    "key",
    [
        replace(KEY, revoked=True),
        replace(KEY, expires=NOW),
        replace(KEY, sign="U" * 43),
        replace(KEY, seal="U" * 43),
    ],
)
def test_a_key_that_is_ended_or_replaced_has_its_grants(key: TenantKey) -> None:
    assert with_key(key) == [Removal(PATH, 7, 0)]


def test_a_removed_key_has_its_grants() -> None:
    assert lost(keys={"idle": ACME.keys["idle"]}) == [Removal(PATH, 7, 0)]


def test_a_key_that_has_no_live_grants_is_no_loss() -> None:
    assert lost(keys={"billing": KEY}) == []


def test_a_key_that_will_expire_later_is_no_loss() -> None:
    assert with_key(replace(KEY, expires=NOW + timedelta(seconds=1))) == []


def test_a_key_that_was_of_no_use_before_is_not_lost_by_being_revoked() -> None:
    before = replace(ACME, keys={"billing": replace(KEY, expires=NOW)})
    after = replace(ACME, keys={"billing": replace(KEY, expires=NOW, revoked=True)})
    found = find_removals(
        TenantConfig(tenants={"acme": before}),
        TenantConfig(tenants={"acme": after}),
        UNDER_WAY,
        NOW,
    )
    assert found == []


def test_a_removed_endpoint_has_its_webhooks_and_is_a_loss_only_with_some() -> None:
    assert lost(endpoints={}) == [Removal("tenants.acme.endpoints.a", 0, 3)]


def test_a_loss_is_one_readable_line() -> None:
    assert str(Removal(PATH, 1_234, 0)) == f"{PATH}: 1,234 live grants, 0 pending webhooks"
