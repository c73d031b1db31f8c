from datetime import UTC, datetime

from worker.core.apply.diff import FieldChange
from worker.core.apply.plan import ApplyPlan, InUseCounts, plan_apply
from worker.core.tenants.config import Tenant, TenantConfig

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
ACME, ACME_2 = Tenant("acme", "queue"), Tenant("acme", "queue", id="acme~2")


def plan(before: Tenant | None, after: Tenant | None) -> ApplyPlan:
    configs = [
        TenantConfig(tenants={"acme": tenant} if tenant else {}) for tenant in (before, after)
    ]
    in_use = InUseCounts({("acme", None): 7, ("acme~2", None): 2}, {("acme~2", "hook"): 3})
    return plan_apply(configs[0], configs[1], in_use, NOW)


def test_a_name_that_is_used_again_has_a_warning_that_nothing_is_inherited() -> None:
    warning, _ = plan(None, ACME_2).warnings
    assert (warning.code, warning.tenant, warning.key) == ("name_reused", "acme", None)
    assert "acme is a new tenant, acme~2: it inherits no batches" in warning.message
    assert plan(None, ACME_2).to_dict()["risks"][0]["code"] == "name_reused"


def test_a_first_or_kept_tenant_has_no_such_warning() -> None:
    for before, after in ((None, ACME), (ACME_2, ACME_2), (ACME_2, None)):
        assert "name_reused" not in {warning.code for warning in plan(before, after).warnings}


def test_the_id_of_a_tenant_whose_name_is_used_again_is_a_change() -> None:
    assert FieldChange("tenants.acme.id", None, "acme~2") in plan(None, ACME_2).changes
    assert FieldChange("tenants.acme.id", "acme~2", None) in plan(ACME_2, None).changes
    assert "tenants.acme.id" not in {change.path for change in plan(None, ACME).changes}


def test_the_removal_of_a_tenant_counts_nothing_of_an_earlier_one() -> None:
    (removal,) = plan(ACME_2, None).removals
    assert (removal.path, removal.live_grants, removal.pending_webhooks) == ("tenants.acme", 2, 3)
    assert removal.is_tenant
