from datetime import UTC, datetime, timedelta

import pytest

from valetkey.units import format_amount
from worker.quota.quota_changes import with_quota
from worker.quota.quota_command import status_row
from worker.rules.quota_rules import Cost, UsageByWindow
from worker.rules.tenant_config import Quota, QuotaOverride, Tenant, TenantConfig
from worker.shared.quota_statuses import quota_statuses

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
HOUR = Quota("grants", "hour", 100, 80)


def row(used: int, quota: Quota = HOUR, *overrides: QuotaOverride) -> tuple[str, ...]:
    usage = {quota.window: Cost(**{quota.metric: used})}
    acme = Tenant("acme", "queue", quotas=(quota,), quota_overrides=overrides)
    (status,) = quota_statuses(acme, usage, NOW, include_unlimited=False)
    return status_row(status, NOW)


def test_a_status_is_formatted_as_a_row() -> None:
    assert row(41) == (
        *("acme", "grants.hour", "41", "100", "41%", "█████████░░░░░░░│░░░"),
        *("30 minutes", "warns from 80"),
    )


@pytest.mark.parametrize(("used", "full"), [(1, 1), (99, 19), (100, 20), (150, 20)])
def test_a_bar_is_full_only_if_nothing_is_left(used: int, full: int) -> None:
    assert row(used, Quota("grants", "hour", 100))[5] == "█" * full + "░" * (20 - full)


def test_a_reached_warning_is_in_capitals_and_a_live_quota_does_not_reset() -> None:
    assert (row(79)[7], row(80)[7]) == ("warns from 80", "WARNS from 80")
    assert row(1, Quota("grants", "live", 10))[6] == "as grants expire"


def test_an_override_is_part_of_the_limit_and_noted_with_its_end() -> None:
    current = QuotaOverride("grants", "hour", 50, NOW + timedelta(minutes=10))
    expired = QuotaOverride("grants", "hour", 1_000, NOW)
    of_another_window = QuotaOverride("grants", "day", 1_000, NOW + timedelta(days=1))
    *_, limit, share, _, _, notes = row(75, HOUR, current, expired, of_another_window)
    assert (limit, share) == ("150", "50%")
    assert notes == "warns from 80; raised by 50 until 2026-11-24T12:40:00Z"


def test_without_a_quota_only_what_is_used_is_shown() -> None:
    usage: UsageByWindow = {"hour": Cost(5, 2, 0), "day": Cost(5, 2, 0)}
    statuses = quota_statuses(Tenant("acme", quotas=(HOUR,)), usage, NOW, include_unlimited=True)
    assert [(status.metric, status.window, status.used, status.limit) for status in statuses] == [
        ("grants", "hour", 5, 100),
        ("grants", "day", 5, None),
        ("download_grants", "hour", 2, None),
        ("download_grants", "day", 2, None),
    ]


@pytest.mark.parametrize(("number", "text"), [(0, "0 B"), (2**63 - 1, "8.0 EiB")])
def test_every_amount_of_bytes_has_a_unit(number: int, text: str) -> None:
    assert format_amount("upload_bytes", number) == text


def test_a_quota_is_replaced_or_added_in_the_databases_order() -> None:
    before = Tenant("acme", quotas=(HOUR, Quota("upload_bytes", "day", 1)))
    config = TenantConfig(tenants={"acme": before})
    for quota in (Quota("grants", "day", 200), Quota("grants", "hour", 50)):
        config = with_quota(config, config.tenants["acme"], quota)
    assert config.tenants["acme"].quotas == (
        Quota("grants", "day", 200),
        Quota("grants", "hour", 50),
        Quota("upload_bytes", "day", 1),
    )
