from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valetkey.wire.refusals import Metric, Window
from worker.rules.quota_rules import (
    METRICS,
    WINDOWS,
    Cost,
    UsageByWindow,
    admit_cost,
    batch_open_time,
    effective_quotas,
    resets_at,
    window_start,
)
from worker.rules.tenant_config import Quota, QuotaOverride, Tenant

NOW = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)
CALENDAR_WINDOWS = st.sampled_from([window for window in WINDOWS if window != "live"])
MOMENTS = st.integers(0, 4_000_000_000).map(lambda second: datetime.fromtimestamp(second, UTC))


@pytest.mark.parametrize(
    ("window", "start"),
    [
        ("minute", datetime(2026, 12, 31, 23, 59, tzinfo=UTC)),
        ("hour", datetime(2026, 12, 31, 23, tzinfo=UTC)),
        ("day", datetime(2026, 12, 31, tzinfo=UTC)),
        ("month", datetime(2026, 12, 1, tzinfo=UTC)),
    ],
)
def test_windows_follow_the_utc_calendar(window: Window, start: datetime) -> None:
    assert window_start(window, NOW) == start
    assert resets_at(window, NOW) == datetime(2027, 1, 1, tzinfo=UTC)


@given(MOMENTS, CALENDAR_WINDOWS)
def test_a_window_contains_its_moment_and_the_next_window_starts_where_it_ends(
    now: datetime, window: Window
) -> None:
    start, end = window_start(window, now), resets_at(window, now)
    assert end is not None
    assert start <= now < end
    assert window_start(window, end) == end
    assert window_start(window, end - timedelta(microseconds=1)) == start


def test_live_is_one_window_that_never_ends() -> None:
    assert window_start("live", NOW) == window_start("live", NOW + timedelta(days=400))
    assert resets_at("live", NOW) is None


def test_overrides_of_one_quota_add_up_until_they_expire_and_leave_other_quotas_alone() -> None:
    expires_at = NOW + timedelta(hours=1)
    tenant = Tenant(
        "acme",
        quotas=(Quota("grants", "day", 10), Quota("grants", "hour", 10)),
        quota_overrides=tuple(QuotaOverride("grants", "day", n, expires_at) for n in (5, 7)),
    )
    assert [quota.limit for quota in effective_quotas(tenant, NOW)] == [22, 10]
    assert [quota.limit for quota in effective_quotas(tenant, expires_at)] == [10, 10]


tenants = st.lists(
    st.builds(Quota, st.sampled_from(METRICS), st.sampled_from(WINDOWS), st.just(1))
).map(lambda quotas: Tenant("acme", quotas=tuple(quotas)))


@pytest.mark.parametrize(
    ("windows", "open_time"),
    [
        ((), timedelta(days=1)),
        (("live",), timedelta(days=1)),
        (("month", "day"), timedelta(days=1)),
        (("day", "hour", "live"), timedelta(hours=1)),
        (("month", "hour", "minute"), timedelta(minutes=1)),
    ],
)
def test_a_batch_stays_open_for_the_shortest_window_with_a_quota_and_at_most_a_day(
    windows: tuple[Window, ...], open_time: timedelta
) -> None:
    quotas = tuple(Quota("grants", window, 10) for window in windows)
    assert batch_open_time(Tenant("acme", quotas=quotas)) == open_time


@given(tenants, MOMENTS, CALENDAR_WINDOWS)
def test_a_batch_is_closed_by_the_end_of_the_window_after_the_one_in_which_it_began(
    tenant: Tenant, now: datetime, window: Window
) -> None:
    closes_at = now + batch_open_time(tenant)
    end = resets_at(window, now)
    assert end is not None
    next_end = resets_at(window, end)
    assert next_end is not None
    if any(quota.window == window for quota in tenant.quotas):
        assert closes_at <= next_end


@given(
    CALENDAR_WINDOWS,
    st.integers(1, 20),
    MOMENTS,
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(1, 20), st.integers(0, 20)),
        min_size=1,
        max_size=12,
    ),
)
def test_at_most_twice_a_limit_is_issued_in_any_window_however_much_is_saved_for_a_burst(
    window: Window, limit: int, now: datetime, batches: list[tuple[int, int, int]]
) -> None:
    """Open batches some tenths of a window apart, and issue what they saved when the last opens."""
    open_time = batch_open_time(Tenant("acme", quotas=(Quota("grants", window, limit),)))
    charged: Counter[datetime] = Counter()
    issued: Counter[datetime] = Counter()
    saved: list[tuple[datetime, int]] = []
    for tenths, items, later_items in batches:
        start, end = window_start(window, now), resets_at(window, now)
        assert end is not None
        now += (end - start) * tenths / 10
        start = window_start(window, now)
        if charged[start] + items <= limit:
            charged[start] += items
            later = min(items, later_items)
            issued[start] += items - later
            saved.append((now, later))
    burst = sum(later for began_at, later in saved if now < began_at + open_time)
    issued[window_start(window, now)] += burst
    assert max(issued.values()) <= 2 * limit


QUOTAS = (Quota("grants", "day", 10), Quota("upload_bytes", "live", 1_000))
ACME = Tenant("acme", quotas=QUOTAS)
USAGE: dict[Window, Cost] = {"day": Cost(8), "live": Cost(8, 0, 500)}
CEILING = 2**62  # bytes

costs = st.builds(Cost, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
quotas = st.builds(
    Quota,
    st.sampled_from(["grants", "download_grants", "upload_bytes"]),
    st.sampled_from(WINDOWS),
    st.integers(0, 12),
)
quota_lists = st.lists(quotas, max_size=4, unique_by=lambda quota: (quota.metric, quota.window))
usages = st.dictionaries(st.sampled_from(WINDOWS), costs)


def test_a_cost_that_exceeds_several_quotas_is_refused_for_the_first_one() -> None:
    refusal = admit_cost(ACME, USAGE, Cost(3, 0, 501), NOW).refusal
    assert refusal is not None
    assert (str(refusal.code), refusal.field, refusal.limit) == ("quota_exceeded", "total", 10)
    assert refusal.quota is not None
    assert refusal.quota.model_dump(exclude_none=True) == {
        "metric": "grants",
        "window": "day",
        "limit": 10,
        "used": 8,
        "asked": 3,
        "resets_at": datetime(2027, 1, 1, tzinfo=UTC),
    }


@pytest.mark.parametrize("window", ["month", "live"])
def test_a_ceiling_refuses_a_cost_of_a_tenant_without_quotas(window: Window) -> None:
    usage: UsageByWindow = {window: Cost(0, 0, CEILING)}
    refusal, states, _ = admit_cost(Tenant("acme"), usage, Cost(0, 0, 1), NOW)
    assert refusal is not None
    assert refusal.quota is not None
    assert (refusal.quota.metric, refusal.quota.window) == ("upload_bytes", window)
    assert refusal.limit == CEILING
    assert states == []


def test_a_cost_up_to_the_ceilings_is_admitted_and_they_are_not_among_the_quotas() -> None:
    usage = dict.fromkeys(WINDOWS, Cost(0, 0, CEILING - 1))
    assert admit_cost(Tenant("acme"), usage, Cost(9, 9, 1), NOW)[:2] == (None, [])


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
    assert [state.used for state in admission.quotas] == (after if all(fits) else before)


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
