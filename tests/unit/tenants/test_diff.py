from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from worker.audit.changes_command import is_default
from worker.rules.tenant_config import (
    Bucket,
    Policy,
    Quota,
    QuotaOverride,
    Tenant,
    TenantConfig,
    TenantKey,
    WebhookEndpoint,
)
from worker.tenants.apply_plan import diff_config

DEMO = Bucket("demo", "valetkey-demo", "us-east-1")
DEMO_POLICY = Policy("demo", ("acme/",), ("download",))
KEY = TenantKey("billing", "S" * 43, "E" * 43)
MIDNIGHT = datetime(2027, 11, 25, tzinfo=UTC)
ACME = Tenant(
    "acme",
    "queue",
    policies={"demo": DEMO_POLICY},
    quotas=(Quota("grants", "hour", 50_000),),
    endpoints={"billing": WebhookEndpoint("billing", "https://billing.example.com/", "env:SECRET")},
    keys={"billing": KEY},
)
BEFORE = TenantConfig({"demo": DEMO}, {"acme": ACME})


def with_acme(**changes: object) -> TenantConfig:
    return replace(BEFORE, tenants={"acme": replace(ACME, **changes)})  # type: ignore[arg-type]


def lines(after: TenantConfig) -> list[str]:
    return [str(change) for change in diff_config(BEFORE, after)]


def with_value(table: Any, name: str) -> Any:
    """Return a table with another value of one field."""
    value = getattr(table, name)
    if isinstance(value, bool):
        return replace(table, **{name: not value})
    if isinstance(value, int):
        return replace(table, **{name: value + 1})
    return replace(table, **{name: ("other",) if isinstance(value, tuple) else "other"})


def changed_tables() -> Iterator[tuple[str, TenantConfig]]:
    """Yield the path of each field, and a config in which only that field is different."""
    in_file = (field.name for field in fields(DEMO) if field.name not in {"name", "sessions_from"})
    for name in in_file:
        buckets = {"demo": with_value(DEMO, name)}
        yield f"buckets.demo.{name}", replace(BEFORE, buckets=buckets)
    for name in (field.name for field in fields(DEMO_POLICY) if field.name != "bucket"):
        policies = {"demo": with_value(DEMO_POLICY, name)}
        yield f"tenants.acme.allow.demo.{name}", with_acme(policies=policies)


@pytest.mark.parametrize(("path", "after"), list(changed_tables()))
def test_a_change_of_any_field_is_a_difference(path: str, after: TenantConfig) -> None:
    assert [change.path for change in diff_config(BEFORE, after)] == [path]


def with_quotas(*quotas: Quota) -> TenantConfig:
    return with_acme(quotas=quotas)


def with_policy(**changes: Any) -> TenantConfig:
    return with_acme(policies={"demo": replace(DEMO_POLICY, **changes)})


def with_key(**changes: Any) -> TenantConfig:
    return with_acme(keys={"billing": replace(KEY, **changes)})


BYTE = Quota("upload_bytes", "day", 1)
HOOK = {"billing": replace(ACME.endpoints["billing"], secret="file:/s")}
LINES = [
    (with_quotas(Quota("grants", "hour", 60_000)), "~ {}.quotas.grants.hour 50,000 → 60,000"),
    (with_quotas(), "- {}.quotas.grants.hour 50,000"),
    (with_quotas(*ACME.quotas, BYTE), "+ {}.quotas.upload_bytes.day 1 byte"),
    (with_quotas(Quota("grants", "hour", 50_000, 40_000)), "+ {}.quotas.grants.hour.warn 40,000"),
    (with_acme(max_batch=1), "~ {}.max_batch 100,000 → 1"),
    (with_acme(trust="keys"), "~ {}.trust queue → keys"),
    (with_acme(endpoints=HOOK), "~ {}.endpoints.billing.secret env:SECRET → file:/s"),
    (with_policy(prefixes=("",)), '~ {}.allow.demo.prefixes ["acme/"] → ["*"]'),
    (with_policy(callbacks=()), "+ {}.allow.demo.callbacks []"),
    (with_policy(max_batch=10), "+ {}.allow.demo.max_batch 10"),
    (with_key(expires=MIDNIGHT), "+ {}.keys.billing.expires 2027-11-25T00:00:00Z"),
    (with_key(revoked=True), "~ {}.keys.billing.revoked false → true"),
    (with_key(seal="F" * 43), "~ {}.keys.billing.seal EEEEEEEE… → FFFFFFFF…"),
]


@pytest.mark.parametrize(("after", "line"), LINES)
def test_a_difference_is_one_readable_line(after: TenantConfig, line: str) -> None:
    assert lines(after) == [line.format("tenants.acme")]


def test_a_removed_tenant_is_shown_field_by_field() -> None:
    without = lines(replace(BEFORE, tenants={}))
    assert "- tenants.acme.trust queue" in without
    assert all(line.startswith("- tenants.acme.") for line in without)


def test_a_public_key_is_shortened_as_text_and_complete_as_a_value() -> None:
    changes = {change.path: change for change in diff_config(TenantConfig(), BEFORE)}
    change = changes["tenants.acme.keys.billing.sign"]
    assert change.after == "S" * 43
    assert str(change).endswith(".sign SSSSSSSS…")


def test_a_quota_override_is_no_difference() -> None:
    overridden = with_acme(quota_overrides=(QuotaOverride("grants", "hour", 1, MIDNIGHT),))
    assert lines(overridden) == []


DEFAULT_VALUES: list[tuple[str, Any]] = [
    ("tenants.acme.max_batch", 100_000),
    ("tenants.acme.allow.demo.shared", False),
    ("tenants.acme.allow.demo.content_types", ["application/octet-stream"]),
    ("tenants.acme.keys.billing.revoked", False),
    ("buckets.demo.provider", "aws"),
]
EDITS: list[tuple[str, Any, Any]] = [
    ("tenants.acme.max_batch", 5, 100_000),  # set back to its default
    ("tenants.acme.max_batch", None, 5),
    ("tenants.acme.trust", None, "keys"),
    ("tenants.acme.allow.demo.max_size", None, False),  # 0 is the default, and no boolean
    ("tenants.acme.allow.demo.prefixes", None, ["a/"]),
    ("tenants.acme.quotas.grants.hour", None, 0),
    ("tenants.acme.endpoints.hook.url", None, "https://example.com"),
    ("buckets.demo.bucket", None, "reports"),
]


def is_edit(path: str, before: Any, after: Any) -> bool:
    return not is_default(path, before, after)


@pytest.mark.parametrize(("path", "value"), DEFAULT_VALUES)
def test_a_default_of_a_new_or_removed_table_is_no_edit(path: str, value: Any) -> None:
    assert not is_edit(path, None, value)
    assert not is_edit(path, value, None)


@pytest.mark.parametrize(("path", "before", "after"), EDITS)
def test_every_other_change_is_an_edit(path: str, before: Any, after: Any) -> None:
    assert is_edit(path, before, after)
