from datetime import UTC, datetime, timedelta

import pytest

from worker.core.apply.plan import config_warnings, is_usable_key
from worker.core.tenants.config import Tenant, TenantConfig, TenantKey

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)


def key(name: str = "billing", *, days: float | None = None, revoked: bool = False) -> TenantKey:
    expires = None if days is None else NOW + timedelta(days=days)
    return TenantKey(name, "S" * 43, "E" * 43, expires, revoked)


def codes(*keys: TenantKey, trust: str = "keys") -> list[tuple[str, str | None]]:
    acme = Tenant("acme", trust, keys={one.name: one for one in keys})  # type: ignore[arg-type]
    return [
        (risk.code, risk.key) for risk in config_warnings(TenantConfig(tenants={"acme": acme}), NOW)
    ]


@pytest.mark.parametrize(
    ("days", "code"),
    [
        (None, None),
        (30.1, None),
        (30, "key_expires_soon"),
        (0.001, "key_expires_soon"),
        (0, "key_expired"),
        (-400, "key_expired"),
    ],
)
def test_a_key_is_pointed_out_thirty_days_before_it_expires(
    days: float | None, code: str | None
) -> None:
    assert codes(key("good"), key("other", days=days)) == ([(code, "other")] if code else [])


def test_whoever_trusts_the_queue_is_pointed_out_with_keys_and_without() -> None:
    assert codes(trust="queue") == [("trusts_queue", None)]
    assert codes(key(), trust="queue") == [("trusts_queue", None)]


@pytest.mark.parametrize("keys", [(), (key(revoked=True),), (key(days=-1),)])
def test_a_tenant_that_nobody_can_speak_for_is_pointed_out(keys: tuple[TenantKey, ...]) -> None:
    assert codes(*keys)[0] == ("no_usable_key", None)


def test_a_revoked_key_is_not_also_said_to_expire() -> None:
    assert codes(key("good"), key("old", days=-1, revoked=True)) == []


def test_a_risk_says_what_to_do_about_it() -> None:
    acme = Tenant("acme", "queue")
    (risk,) = config_warnings(TenantConfig(tenants={"acme": acme}), NOW)
    assert risk.message == "acme trusts the queue: whoever can write to it speaks for acme"
    assert risk.hint == "give it keys: valetkey keygen acme"


def test_a_key_is_usable_until_the_moment_it_expires() -> None:
    assert is_usable_key(key(days=0.001), NOW)
    assert not is_usable_key(key(days=0), NOW)
    assert not is_usable_key(key(revoked=True), NOW)
    assert not is_usable_key(None, NOW)
