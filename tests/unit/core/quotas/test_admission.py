from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valetkey.wire.refusals import Metric, Window
from worker.core.quotas.admission import QuotaAdmission, admit_cost, first_quota_refusal
from worker.core.quotas.cost import WINDOWS, Cost
from worker.core.tenants.config import Quota, QuotaOverride, Tenant

NOW = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)
QUOTAS = (Quota("grants", "day", 10), Quota("upload_bytes", "live", 1_000))
ACME = Tenant("acme", quotas=QUOTAS)
USAGE: dict[Window, Cost] = {"day": Cost(8), "live": Cost(8, 0, 500)}
CEILING = 2**62  # bytes

costs = st.builds(Cost, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
quota_lists = st.lists(
    st.builds(
        Quota,
        st.sampled_from(["grants", "download_grants", "upload_bytes"]),
        st.sampled_from(WINDOWS),
        st.integers(0, 12),
    ),
    max_size=4,
    unique_by=lambda quota: (quota.metric, quota.window),
)
usages = st.dictionaries(st.sampled_from(WINDOWS), costs)


def used_amounts(admission: QuotaAdmission) -> list[int]:
    return [state.used for state in admission.quotas]


def test_the_returned_quotas_contain_an_admitted_cost() -> None:
    admission = admit_cost(ACME, USAGE, Cost(2, 0, 500), NOW)
    assert admission.refusal is None
    assert used_amounts(admission) == [10, 1_000]


def test_the_returned_quotas_do_not_contain_a_refused_cost() -> None:
    admission = admit_cost(ACME, USAGE, Cost(1, 0, 501), NOW)
    assert admission.refusal is not None
    assert used_amounts(admission) == [8, 500]


def test_a_window_without_usage_counts_as_unused() -> None:
    assert used_amounts(admit_cost(ACME, {}, Cost(1, 0, 7), NOW)) == [1, 7]


def test_a_cost_that_exceeds_several_quotas_is_refused_for_the_first_one() -> None:
    refusal = admit_cost(ACME, USAGE, Cost(3, 0, 501), NOW).refusal
    assert refusal is not None
    assert refusal.quota is not None
    assert (str(refusal.code), refusal.field, refusal.limit) == ("quota_exceeded", "total", 10)
    assert (refusal.quota.metric, refusal.quota.window) == ("grants", "day")
    assert (refusal.quota.used, refusal.quota.asked) == (8, 3)


def test_a_quota_override_admits_a_cost_over_the_configured_limit() -> None:
    override = QuotaOverride("grants", "day", 5, NOW + timedelta(seconds=1))
    tenant = Tenant("acme", quotas=QUOTAS, quota_overrides=(override,))
    admission = admit_cost(tenant, USAGE, Cost(7), NOW)
    assert admission.refusal is None
    assert [(state.limit, state.used) for state in admission.quotas] == [(15, 15), (1_000, 500)]


@pytest.mark.parametrize("window", ["month", "live"])
def test_a_ceiling_refuses_a_cost_of_a_tenant_without_quotas(window: Window) -> None:
    refusal, states = admit_cost(Tenant("acme"), {window: Cost(0, 0, CEILING)}, Cost(0, 0, 1), NOW)
    assert refusal is not None
    assert refusal.quota is not None
    assert (refusal.quota.metric, refusal.quota.window) == ("upload_bytes", window)
    assert refusal.limit == CEILING
    assert states == []


def test_a_cost_up_to_the_ceilings_is_admitted_and_they_are_not_among_the_quotas() -> None:
    usage = dict.fromkeys(WINDOWS, Cost(0, 0, CEILING - 1))
    assert admit_cost(Tenant("acme"), usage, Cost(9, 9, 1), NOW) == QuotaAdmission(None, [])


@given(quota_lists, usages, costs)
def test_a_cost_is_admitted_if_no_quota_would_be_exceeded(
    quotas: list[Quota], usage: dict[Window, Cost], cost: Cost
) -> None:
    admission = admit_cost(Tenant("acme", quotas=tuple(quotas)), usage, cost, NOW)
    before = [getattr(usage.get(quota.window, Cost()), quota.metric) for quota in quotas]
    amounts = [getattr(cost, quota.metric) for quota in quotas]
    after = [used + amount for used, amount in zip(before, amounts, strict=True)]
    fits = [
        not amount or used <= quota.limit
        for quota, amount, used in zip(quotas, amounts, after, strict=True)
    ]
    assert (admission.refusal is None) == all(fits)
    assert used_amounts(admission) == (after if all(fits) else before)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 100))
def test_a_quota_admits_a_cost_up_to_its_limit_and_no_more(
    limit: int, used: int, amount: int
) -> None:
    quota = Quota("grants", "hour", limit)
    refusal = first_quota_refusal([quota], {"hour": Cost(used)}, Cost(amount), NOW)
    assert (refusal is None) == (used + amount <= limit)


def test_a_refusal_contains_the_quota_and_its_usage() -> None:
    refusal = first_quota_refusal([Quota("grants", "day", 10)], {"day": Cost(8)}, Cost(5), NOW)
    assert refusal is not None
    assert refusal.quota is not None
    assert refusal.quota.model_dump(exclude_none=True) == {
        "metric": "grants",
        "window": "day",
        "limit": 10,
        "used": 8,
        "asked": 5,
        "resets_at": datetime(2027, 1, 1, tzinfo=UTC),
    }


def test_a_quota_of_a_metric_without_cost_refuses_nothing() -> None:
    assert first_quota_refusal([Quota("upload_bytes", "day", 1)], {}, Cost(5, 5), NOW) is None


@pytest.mark.parametrize("metric", ["grants", "download_grants", "upload_bytes", "stored_bytes"])
@pytest.mark.parametrize("used", [10, 11], ids=["at its limit", "exceeded"])
def test_a_quota_without_room_refuses_only_what_adds_to_it(metric: Metric, used: int) -> None:
    tenant = Tenant("acme", quotas=(Quota(metric, "live", 10),))
    usage: dict[Window, Cost] = {"live": Cost()._replace(**{metric: used})}
    charged = "upload_bytes" if metric == "stored_bytes" else metric
    refusals = [
        admit_cost(tenant, usage, cost, NOW).refusal
        for cost in (Cost(5, 5, 5)._replace(**{charged: 0}), Cost()._replace(**{charged: 1}))
    ]
    assert [refusal is None for refusal in refusals] == [True, False]
