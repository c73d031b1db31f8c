from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders.messages import (
    download_message,
    grant_message,
    put_message,
    upload_message,
)
from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Window
from valetkey.wire.terms import Parts
from worker.core.quotas import cost
from worker.core.quotas.cost import NO_COST, Cost
from worker.core.tenants.config import Quota, QuotaOverride, Tenant

NOW = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)
MOMENTS = st.integers(0, 4_000_000_000).map(lambda second: datetime.fromtimestamp(second, UTC))


def test_an_upload_costs_one_grant_and_its_largest_size() -> None:
    message = ChunkMessage.model_validate(upload_message(max_size=500))
    assert cost.reserved_cost(message.grant, 3) == Cost(3, 0, 1_500)
    assert cost.granted_cost(message.grant, message.items) == Cost(1, 0, 500)


def test_a_put_is_reserved_its_largest_size_and_costs_its_own() -> None:
    message = ChunkMessage.model_validate(put_message({"acme/a": 30, "acme/b": 0}, max_size=500))
    assert cost.reserved_cost(message.grant, 2) == Cost(2, 0, 1_000)
    assert cost.granted_cost(message.grant, message.items) == Cost(2, 0, 30)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=20), st.data())
def test_what_is_granted_never_costs_more_than_was_reserved_for_it(
    sizes: list[int], data: st.DataObject
) -> None:
    keyed = {f"acme/{number}": size for number, size in enumerate(sizes)}
    for request in (
        grant_message(list(keyed)),
        upload_message(list(keyed)),
        put_message(keyed, max_size=500),
    ):
        asked = ChunkMessage.model_validate(request)
        granted = data.draw(st.lists(st.sampled_from(asked.items), unique_by=lambda one: one.key))
        saved = cost.reserved_cost(asked.grant, len(sizes)).less(
            cost.granted_cost(asked.grant, granted)
        )
        assert min(saved) >= 0


def test_the_parts_of_an_upload_that_was_paid_for_cost_nothing() -> None:
    terms = Parts(bucket="demo", expires_in=60, of="batch.0")
    assert cost.reserved_cost(terms, 3) == NO_COST


def test_a_download_costs_a_grant_of_both_metrics() -> None:
    assert cost.reserved_cost(ChunkMessage.model_validate(download_message()).grant, 3) == Cost(
        3, 3, 0
    )


@pytest.mark.parametrize(
    ("window", "start", "end"),
    [
        ("minute", datetime(2026, 12, 31, 23, 59, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
        ("hour", datetime(2026, 12, 31, 23, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
        ("day", datetime(2026, 12, 31, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
        ("month", datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
    ],
)
def test_windows_follow_the_calendar_of_utc(window: Window, start: datetime, end: datetime) -> None:
    assert (cost.window_start(window, NOW), cost.resets_at(window, NOW)) == (start, end)


@given(MOMENTS, st.sampled_from([window for window in cost.WINDOWS if window != "live"]))
def test_a_moment_is_inside_its_window_and_the_next_one_begins_where_it_ends(
    at: datetime, window: Window
) -> None:
    start, end = cost.window_start(window, at), cost.resets_at(window, at)
    assert end is not None
    assert start <= at < end
    assert cost.window_start(window, end) == end
    assert cost.window_start(window, end - timedelta(microseconds=1)) == start


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 100))
def test_a_quota_is_granted_to_its_limit_and_not_one_further(
    limit: int, used: int, asked: int
) -> None:
    refusal = cost.quota_refusal(
        [Quota("grants", "hour", limit)], {"hour": Cost(used)}, Cost(asked), NOW
    )
    assert (refusal is None) == (used + asked <= limit)


def test_a_refusal_says_which_quota_and_how_far_it_is() -> None:
    refusal = cost.quota_refusal([Quota("grants", "day", 10)], {"day": Cost(8)}, Cost(5), NOW)
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


def test_a_quota_of_another_metric_is_not_in_the_way() -> None:
    assert cost.quota_refusal([Quota("upload_bytes", "day", 1)], {}, Cost(5, 5), NOW) is None


def test_what_is_live_is_of_one_window_that_never_ends() -> None:
    assert cost.window_start("live", NOW) == cost.window_start("live", NOW + timedelta(days=400))
    assert cost.resets_at("live", NOW) is None


def test_raises_of_one_quota_add_up_and_leave_the_others_alone() -> None:
    until = NOW + timedelta(hours=1)
    raised = Tenant(
        "acme",
        quotas=(Quota("grants", "day", 10), Quota("grants", "hour", 10)),
        raises=(QuotaOverride("grants", "day", 5, until), QuotaOverride("grants", "day", 7, until)),
    )
    assert [quota.limit for quota in cost.effective_quotas(raised, NOW)] == [22, 10]


def test_a_raised_quota_has_more_until_its_moment_and_not_at_it() -> None:
    until = NOW + timedelta(hours=1)
    raised = Tenant(
        "acme",
        quotas=(Quota("grants", "day", 10),),
        raises=(QuotaOverride("grants", "day", 5, until),),
    )
    assert cost.effective_quotas(raised, NOW)[0].limit == 15
    assert cost.effective_quotas(raised, until)[0].limit == 10
