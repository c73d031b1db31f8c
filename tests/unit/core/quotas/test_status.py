from datetime import UTC, datetime, timedelta

import pytest

from valetkey.wire.refusals import Metric
from worker.core.apply.changes import blocking_quotas, with_quota
from worker.core.quotas.cost import Cost
from worker.core.quotas.status import format_amount, format_duration, quota_statuses, status_row
from worker.core.tenants.config import Quota, QuotaOverride, Tenant, TenantConfig

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
HOUR = Quota("grants", "hour", 100, 80)


def tenant(*quotas: Quota, raises: tuple[QuotaOverride, ...] = ()) -> Tenant:
    return Tenant("acme", "queue", quotas=quotas, raises=raises)


def words(
    used: int, quota: Quota = HOUR, raises: tuple[QuotaOverride, ...] = ()
) -> tuple[str, ...]:
    charged = {quota.window: Cost(**{quota.metric: used})}
    (standing,) = quota_statuses(tenant(quota, raises=raises), charged, NOW, every=False)
    return status_row(standing, NOW)


def test_a_quota_in_words() -> None:
    assert words(41) == (
        "acme",
        "grants.hour",
        "41",
        "100",
        "41%",
        "█████████░░░░░░░│░░░",
        "30m",
        "warns from 80",
    )


@pytest.mark.parametrize(
    ("used", "bar"),
    [
        (0, "░░░░░░░░░░░░░░░░░░░░"),
        (1, "█░░░░░░░░░░░░░░░░░░░"),
        (50, "██████████░░░░░░░░░░"),
        (99, "███████████████████░"),
        (100, "████████████████████"),
        (150, "████████████████████"),
    ],
)
def test_a_bar_is_full_only_where_nothing_is_left(used: int, bar: str) -> None:
    assert words(used, Quota("grants", "hour", 100))[5] == bar


def test_a_reached_warning_is_loud() -> None:
    assert words(79)[7] == "warns from 80"
    assert words(80)[7] == "WARNS from 80"


def test_live_quotas_do_not_reset() -> None:
    assert words(1, Quota("grants", "live", 10))[6] == "as grants lapse"


def test_a_raise_is_in_the_limit_and_named_with_its_end() -> None:
    one = QuotaOverride("grants", "hour", 50, NOW + timedelta(minutes=10))
    over = QuotaOverride("grants", "hour", 1_000, NOW)
    another = QuotaOverride("grants", "day", 1_000, NOW + timedelta(days=1))
    *_, limit, share, _, _, notes = words(75, HOUR, (one, over, another))
    assert (limit, share) == ("150", "50%")
    assert notes == "warns from 80; raised by 50 until 2026-11-24T12:40:00Z"


def test_what_is_used_where_there_is_no_quota_is_there_only_if_asked_for() -> None:
    used = {"hour": Cost(5, 2, 0), "day": Cost(5, 2, 0)}
    of = {
        every: [
            (one.metric, one.window, one.used, one.limit)
            for one in quota_statuses(tenant(HOUR), used, NOW, every=every)  # type: ignore[arg-type]
        ]
        for every in (False, True)
    }
    assert of[False] == [("grants", "hour", 5, 100)]
    assert of[True] == [
        ("grants", "hour", 5, 100),
        ("grants", "day", 5, None),
        ("download_grants", "hour", 2, None),
        ("download_grants", "day", 2, None),
    ]


@pytest.mark.parametrize(
    ("metric", "number", "text"),
    [
        ("grants", 1_234_567, "1,234,567"),
        ("upload_bytes", 0, "0B"),
        ("upload_bytes", 1_023, "1023B"),
        ("upload_bytes", 2**30, "1GiB"),
        ("upload_bytes", 3 * 2**29, "1.5GiB"),
        ("upload_bytes", 2**63 - 1, "8.0EiB"),
    ],
)
def test_an_amount_is_written_in_its_unit(metric: Metric, number: int, text: str) -> None:
    assert format_amount(metric, number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (-5, "0s"), (59.9, "59s"), (3_600, "1h"), (41_400, "11h 30m"), (200_000, "2d 7h")],
)
def test_a_length_of_time_has_two_units_at_most(seconds: float, text: str) -> None:
    assert format_duration(timedelta(seconds=seconds)) == text


def test_a_quota_is_replaced_or_added_in_the_databases_order() -> None:
    before = tenant(HOUR, Quota("upload_bytes", "day", 1))
    declared = TenantConfig(tenants={"acme": before})
    for quota in (Quota("grants", "day", 200), Quota("grants", "hour", 50)):
        declared = with_quota(declared, declared.tenants["acme"], quota)
    assert declared.tenants["acme"].quotas == (
        Quota("grants", "day", 200),
        Quota("grants", "hour", 50),
        Quota("upload_bytes", "day", 1),
    )


def test_a_raise_is_told_which_other_quota_comes_first() -> None:
    of_both = tenant(HOUR, Quota("grants", "day", 150))
    end = NOW + timedelta(hours=1)
    assert blocking_quotas(of_both, QuotaOverride("grants", "hour", 50, end), NOW) == []
    (conflict,) = blocking_quotas(of_both, QuotaOverride("grants", "hour", 51, end), NOW)
    assert "only 150, grants.day" in conflict.message
