from datetime import UTC, datetime, timedelta

import pytest

from worker.core.apply.plan import config_warnings, is_usable_key
from worker.core.tenants.config import Tenant, TenantConfig, TenantKey

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)


def key(name: str = "billing", *, days: float | None = None, revoked: bool = False) -> TenantKey:
    expires = None if days is None else NOW + timedelta(days=days)
    return TenantKey(name, "S" * 43, "E" * 43, expires, revoked)


def codes(*keys: TenantKey, trust: str = "keys") -> list[tuple[str, str | None]]:
    acme = Tenant("acme", trust, keys={item.name: item for item in keys})  # type: ignore[arg-type]
    return [
        (warning.code, warning.key)
        for warning in config_warnings(TenantConfig(tenants={"acme": acme}), NOW)
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
def test_a_key_has_a_warning_from_thirty_days_before_it_expires(
    days: float | None, code: str | None
) -> None:
    assert codes(key("good"), key("other", days=days)) == ([(code, "other")] if code else [])


def test_a_tenant_that_trusts_the_queue_has_a_warning_with_and_without_keys() -> None:
    assert codes(trust="queue") == [("trusts_queue", None)]
    assert codes(key(), trust="queue") == [("trusts_queue", None)]


@pytest.mark.parametrize("keys", [(), (key(revoked=True),), (key(days=-1),)])
def test_a_tenant_without_a_usable_key_has_a_warning(keys: tuple[TenantKey, ...]) -> None:
    assert codes(*keys)[0] == ("no_usable_key", None)


def test_a_revoked_key_has_no_expiry_warning() -> None:
    assert codes(key("good"), key("old", days=-1, revoked=True)) == []


def test_a_warning_has_a_hint() -> None:
    acme = Tenant("acme", "queue")
    (warning,) = config_warnings(TenantConfig(tenants={"acme": acme}), NOW)
    assert warning.message == "acme trusts the queue: anyone who can write to it can act for acme"
    assert warning.hint == 'create a key, and remove trust = "queue": valetkey keygen acme'


def test_a_key_is_usable_until_the_moment_it_expires() -> None:
    assert is_usable_key(key(days=0.001), NOW)
    assert not is_usable_key(key(days=0), NOW)
    assert not is_usable_key(key(revoked=True), NOW)
    assert not is_usable_key(None, NOW)
