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
