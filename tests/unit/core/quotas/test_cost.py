from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valetkey.wire.refusals import Window
from worker.core.quotas import cost
from worker.core.tenants.config import Quota, QuotaOverride, Tenant

NOW = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)
MOMENTS = st.integers(0, 4_000_000_000).map(lambda second: datetime.fromtimestamp(second, UTC))


@pytest.mark.parametrize(
    ("window", "start", "end"),
    [
        ("minute", datetime(2026, 12, 31, 23, 59, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
        ("hour", datetime(2026, 12, 31, 23, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
        ("day", datetime(2026, 12, 31, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
        ("month", datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
    ],
)
def test_windows_follow_the_utc_calendar(window: Window, start: datetime, end: datetime) -> None:
    assert (cost.window_start(window, NOW), cost.resets_at(window, NOW)) == (start, end)


@given(MOMENTS, st.sampled_from([window for window in cost.WINDOWS if window != "live"]))
def test_a_window_contains_its_moment_and_the_next_window_starts_where_it_ends(
    now: datetime, window: Window
) -> None:
    start, end = cost.window_start(window, now), cost.resets_at(window, now)
    assert end is not None
    assert start <= now < end
    assert cost.window_start(window, end) == end
    assert cost.window_start(window, end - timedelta(microseconds=1)) == start


def test_live_is_one_window_that_never_ends() -> None:
    assert cost.window_start("live", NOW) == cost.window_start("live", NOW + timedelta(days=400))
    assert cost.resets_at("live", NOW) is None


def test_overrides_of_one_quota_add_up_and_leave_other_quotas_alone() -> None:
    expires_at = NOW + timedelta(hours=1)
    tenant = Tenant(
        "acme",
        quotas=(Quota("grants", "day", 10), Quota("grants", "hour", 10)),
        quota_overrides=(
            QuotaOverride("grants", "day", 5, expires_at),
            QuotaOverride("grants", "day", 7, expires_at),
        ),
    )
    assert [quota.limit for quota in cost.effective_quotas(tenant, NOW)] == [22, 10]


def test_an_override_is_in_effect_before_its_expiry_and_not_at_it() -> None:
    expires_at = NOW + timedelta(hours=1)
    tenant = Tenant(
        "acme",
        quotas=(Quota("grants", "day", 10),),
        quota_overrides=(QuotaOverride("grants", "day", 5, expires_at),),
    )
    assert cost.effective_quotas(tenant, NOW)[0].limit == 15
    assert cost.effective_quotas(tenant, expires_at)[0].limit == 10


tenants = st.lists(
    st.builds(
        Quota,
        st.sampled_from(cost.METRICS),
        st.sampled_from(cost.WINDOWS),
        st.integers(0, 100),
    )
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
    assert cost.batch_open_time(Tenant("acme", quotas=quotas)) == open_time


@given(tenants, MOMENTS, st.sampled_from([window for window in cost.WINDOWS if window != "live"]))
def test_a_batch_is_closed_by_the_end_of_the_window_after_the_one_in_which_it_began(
    tenant: Tenant, now: datetime, window: Window
) -> None:
    closes_at = now + cost.batch_open_time(tenant)
    end = cost.resets_at(window, now)
    assert end is not None
    next_end = cost.resets_at(window, end)
    assert next_end is not None
    if any(quota.window == window for quota in tenant.quotas):
        assert closes_at <= next_end


@given(
    st.sampled_from([window for window in cost.WINDOWS if window != "live"]),
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
    open_time = cost.batch_open_time(Tenant("acme", quotas=(Quota("grants", window, limit),)))
    charged: Counter[datetime] = Counter()
    issued: Counter[datetime] = Counter()
    saved: list[tuple[datetime, int]] = []
    for tenths, items, later_items in batches:
        start, end = cost.window_start(window, now), cost.resets_at(window, now)
        assert end is not None
        now += (end - start) * tenths / 10
        start = cost.window_start(window, now)
        if charged[start] + items <= limit:
            charged[start] += items
            later = min(items, later_items)
            issued[start] += items - later
            saved.append((now, later))
    burst = sum(later for began_at, later in saved if now < began_at + open_time)
    issued[cost.window_start(window, now)] += burst
    assert max(issued.values()) <= 2 * limit
