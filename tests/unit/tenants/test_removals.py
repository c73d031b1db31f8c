from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from worker.core.tenant_config import Tenant, TenantConfig, TenantKey, WebhookEndpoint
from worker.tenants.apply_plan import (
    ApplyPlan,
    FieldChange,
    InUseCounts,
    Removal,
    find_removals,
    plan_apply,
)

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


def test_a_removed_tenant_counts_all_its_grants_and_webhooks() -> None:
    after = replace(BEFORE, tenants={"globex": BEFORE.tenants["globex"]})
    assert find_removals(BEFORE, after, IN_USE, NOW) == [Removal("tenants.acme", 9, 3)]


@pytest.mark.parametrize(
    "key",
    [
        None,
        replace(KEY, revoked=True),
        replace(KEY, expires=NOW),
        replace(KEY, sign="U" * 43),
        replace(KEY, seal="U" * 43),
    ],
)
def test_a_key_that_is_removed_disabled_or_replaced_counts_its_grants(
    key: TenantKey | None,
) -> None:
    others = {"idle": ACME.keys["idle"]}
    changed = removals(keys=others if key is None else others | {"billing": key})
    assert changed == [Removal(PATH, 7, 0)]


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param({"billing": KEY}, id="a removed key has no live grants"),
        pytest.param(
            {**ACME.keys, "billing": replace(KEY, expires=NOW + timedelta(seconds=1))},
            id="a key expires later",
        ),
    ],
)
def test_a_change_of_keys_that_takes_no_grant_away_is_no_removal(
    keys: dict[str, TenantKey],
) -> None:
    assert removals(keys=keys) == []


def test_revoking_a_key_that_was_not_usable_is_no_removal() -> None:
    before = replace(ACME, keys={"billing": replace(KEY, expires=NOW)})
    after = replace(ACME, keys={"billing": replace(KEY, expires=NOW, revoked=True)})
    old, new = (TenantConfig(tenants={"acme": tenant}) for tenant in (before, after))
    assert find_removals(old, new, IN_USE, NOW) == []


def test_a_removed_endpoint_is_a_removal_only_with_pending_webhooks() -> None:
    assert removals(endpoints={}) == [Removal("tenants.acme.endpoints.a", 0, 3)]


def test_a_removal_is_one_readable_line() -> None:
    assert str(Removal(PATH, 1_234, 0)) == f"{PATH}: 1,234 live grants, 0 pending webhooks"


KEPT, AGAIN = Tenant("acme", "queue"), Tenant("acme", "queue", id="acme~2")


def plan(before: Tenant | None, after: Tenant | None) -> ApplyPlan:
    configs = [
        TenantConfig(tenants={"acme": tenant} if tenant else {}) for tenant in (before, after)
    ]
    in_use = InUseCounts({("acme", None): 7, ("acme~2", None): 2}, {("acme~2", "hook"): 3})
    return plan_apply(configs[0], configs[1], in_use, NOW)


def test_a_first_or_kept_tenant_has_no_such_warning() -> None:
    for before, after in ((None, KEPT), (AGAIN, AGAIN), (AGAIN, None)):
        assert "name_reused" not in {warning.code for warning in plan(before, after).warnings}


def test_the_removal_of_a_tenant_counts_nothing_of_an_earlier_one() -> None:
    (removal,) = plan(AGAIN, None).removals
    assert (removal.path, removal.live_grants, removal.pending_webhooks) == ("tenants.acme", 2, 3)
    assert removal.is_tenant


def test_the_id_of_a_tenant_whose_name_is_used_again_is_a_change() -> None:
    assert FieldChange("tenants.acme.id", None, "acme~2") in plan(None, AGAIN).changes
    assert FieldChange("tenants.acme.id", "acme~2", None) in plan(AGAIN, None).changes
    assert "tenants.acme.id" not in {change.path for change in plan(None, KEPT).changes}
