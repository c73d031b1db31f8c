from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from valetkey.wire.terms import PolicyKind
from worker.rules.tenant_config import (
    Bucket,
    Policy,
    Tenant,
    TenantConfig,
    TenantKey,
    WebhookEndpoint,
)
from worker.tenants.apply_plan import (
    ApplyPlan,
    ConfigWarning,
    FieldChange,
    InUseCounts,
    Removal,
    config_warnings,
    find_removals,
    plan_apply,
)

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
OTHER_STORAGE = Bucket("demo", "b", "r", endpoint="https://s3.example.com", provider="other")


def key(name: str = "billing", *, days: float | None = None, revoked: bool = False) -> TenantKey:
    expires = None if days is None else NOW + timedelta(days=days)
    return TenantKey(name, "S" * 43, "E" * 43, expires, revoked)


def warnings_of(acme: Tenant) -> list[ConfigWarning]:
    return config_warnings(TenantConfig(tenants={"acme": acme}), NOW)


def codes(*keys: TenantKey) -> list[tuple[str, str | None]]:
    acme = Tenant("acme", keys={item.name: item for item in keys})
    return [(warning.code, warning.key) for warning in warnings_of(acme)]


SOON, EXPIRED = "key_expires_soon", "key_expired"


@pytest.mark.parametrize(
    ("days", "code"),
    [(None, None), (30.1, None), (30, SOON), (0.001, SOON), (0, EXPIRED), (-400, EXPIRED)],
)
def test_a_key_has_a_warning_from_thirty_days_before_it_expires(
    days: float | None, code: str | None
) -> None:
    assert codes(key("good"), key("other", days=days)) == ([(code, "other")] if code else [])


@pytest.mark.parametrize("keys", [(), (key(revoked=True),), (key(days=-1),)])
def test_a_tenant_without_a_usable_key_has_a_warning(keys: tuple[TenantKey, ...]) -> None:
    assert codes(*keys)[0] == ("no_usable_key", None)


def test_a_revoked_key_has_no_expiry_warning() -> None:
    assert codes(key("good"), key("old", days=-1, revoked=True)) == []


def test_a_tenant_that_trusts_the_queue_has_a_warning_with_a_hint() -> None:
    (warning,) = warnings_of(Tenant("acme", "queue"))
    assert (warning.code, warning.tenant, warning.key) == ("trusts_queue", "acme", None)
    assert warning.message == "acme trusts the queue: anyone who can write to it can act for acme"
    assert warning.hint == 'create a key, and remove trust = "queue": valetkey keygen acme'


def test_a_key_does_not_hide_that_the_queue_is_trusted_as_well() -> None:
    (warning,) = warnings_of(Tenant("acme", "queue", keys={"billing": key()}))
    assert warning.message.startswith('acme has keys, and trust = "queue"')
    assert warning.hint.startswith('remove trust = "queue" from [tenants.acme]')


def type_warnings(
    *content_types: str,
    inline: tuple[str, ...] = (),
    kinds: tuple[PolicyKind, ...] = ("upload",),
    bucket: Bucket = OTHER_STORAGE,
) -> list[tuple[str, str]]:
    """Return code and message of the warnings about one policy."""
    policy = Policy("demo", ("acme/",), kinds, content_types=content_types, inline=inline)
    acme = Tenant("acme", policies={"demo": policy}, keys={"billing": key()})
    config = TenantConfig({"demo": bucket}, {"acme": acme})
    return [(warning.code, warning.message) for warning in config_warnings(config, NOW)]


def test_a_content_type_without_effect_has_a_warning() -> None:
    (wildcard,) = type_warnings("chemical/*", "image/*")
    assert wildcard[0] == "content_type_unusable"
    assert wildcard[1].startswith("tenants.acme.allow.demo: chemical/* allows nothing")
    (inline,) = type_warnings("text/*", inline=("text/plain", "text/x-log"), kinds=("download",))
    assert "text/x-log allows nothing" in inline[1]


def test_a_choice_of_type_that_storage_may_not_check_has_a_warning() -> None:
    ((code, message),) = type_warnings("audio/*", "video/*", "image/*")
    assert code == "content_type_unchecked"
    assert "a form for audio/*, video/* may store any type, such as audio/x,text/html" in message


def test_a_choice_of_type_that_storage_checks_or_that_no_form_leaves_has_no_warning() -> None:
    assert type_warnings("video/*", bucket=Bucket("demo", "b", "r")) == []
    without_forms = replace(OTHER_STORAGE, provider="r2", post=False)
    assert type_warnings("video/*", bucket=without_forms) == []
    assert type_warnings("video/*", kinds=("put", "download")) == []
    assert type_warnings("image/*", "video/mp4") == []


def test_only_uploads_that_no_source_reports_have_a_warning() -> None:
    unreported = Bucket("demo", "b", "r", probe_rate=0)
    ((code, message),) = type_warnings(bucket=unreported)
    assert code == "uploads_untold"
    assert message.startswith("tenants.acme.allow.demo: no source reports uploads")
    assert type_warnings(kinds=("download",), bucket=unreported) == []
    events = replace(unreported, events_queue="https://sqs.example.com/1/q")
    assert type_warnings(bucket=events) == []


KEY = TenantKey("billing", "S" * 43, "E" * 43)
ACME = Tenant(
    "acme",
    keys={"billing": KEY, "idle": TenantKey("idle", "T" * 43, "F" * 43)},
    endpoints={name: WebhookEndpoint(name, "https://example.com/", "env:A") for name in ("a", "b")},
)
BEFORE = TenantConfig(tenants={"acme": ACME, "globex": Tenant("globex", "queue")})
IN_USE = InUseCounts(
    live_grants={("acme", "billing"): 7, ("acme", None): 2, ("globex", None): 5},
    pending_webhooks={("acme", "a"): 3},
)
PATH = "tenants.acme.keys.billing"


def removals(**changes: object) -> list[Removal]:
    changed = replace(ACME, **changes)  # type: ignore[arg-type]
    after = replace(BEFORE, tenants={**BEFORE.tenants, "acme": changed})
    return find_removals(BEFORE, after, IN_USE, NOW)


def test_a_removed_tenant_counts_all_its_grants_and_webhooks() -> None:
    after = replace(BEFORE, tenants={"globex": BEFORE.tenants["globex"]})
    assert find_removals(BEFORE, after, IN_USE, NOW) == [Removal("tenants.acme", 9, 3)]


@pytest.mark.parametrize(
    ("changes", "grants"),
    [
        (None, 7),
        ({"revoked": True}, 7),
        ({"expires": NOW}, 7),
        ({"sign": "U" * 43}, 7),
        ({"seal": "U" * 43}, 7),
        ({"expires": NOW + timedelta(seconds=1)}, None),
        ({}, None),  # only the other key, which has no grants, is removed
    ],
)
def test_a_key_that_is_removed_disabled_or_replaced_counts_its_grants(
    changes: dict[str, Any] | None, grants: int | None
) -> None:
    keys = {} if changes is None else {"billing": replace(KEY, **changes)}
    assert removals(keys=keys) == ([] if grants is None else [Removal(PATH, grants, 0)])


def test_revoking_a_key_that_was_not_usable_is_no_removal() -> None:
    before = replace(ACME, keys={"billing": replace(KEY, expires=NOW)})
    after = replace(ACME, keys={"billing": replace(KEY, expires=NOW, revoked=True)})
    old, new = (TenantConfig(tenants={"acme": tenant}) for tenant in (before, after))
    assert find_removals(old, new, IN_USE, NOW) == []


def test_a_removed_endpoint_is_a_removal_only_with_pending_webhooks() -> None:
    assert removals(endpoints={}) == [Removal("tenants.acme.endpoints.a", 0, 3)]


def test_a_removal_is_one_readable_line() -> None:
    assert str(Removal(PATH, 1_234, 0)) == f"{PATH}: 1,234 live grants, 0 pending webhooks"


KEPT, AGAIN = Tenant("acme", "queue"), Tenant("acme", "queue", id="acme~2")


def plan(before: Tenant | None, after: Tenant | None) -> ApplyPlan:
    old, new = (TenantConfig(tenants={"acme": each} if each else {}) for each in (before, after))
    in_use = InUseCounts({("acme", None): 7, ("acme~2", None): 2}, {("acme~2", "hook"): 3})
    return plan_apply(old, new, in_use, NOW)


def test_a_first_or_kept_tenant_has_no_such_warning() -> None:
    for before, after in ((None, KEPT), (AGAIN, AGAIN), (AGAIN, None)):
        assert "name_reused" not in {warning.code for warning in plan(before, after).warnings}


def test_the_removal_of_a_tenant_counts_nothing_of_an_earlier_one() -> None:
    (removal,) = plan(AGAIN, None).removals
    assert (removal.path, removal.live_grants, removal.pending_webhooks) == ("tenants.acme", 2, 3)
    assert removal.is_tenant


def test_the_id_of_a_tenant_whose_name_is_used_again_is_a_change() -> None:
    assert FieldChange("tenants.acme.id", None, "acme~2") in plan(None, AGAIN).changes
    assert FieldChange("tenants.acme.id", "acme~2", None) in plan(AGAIN, None).changes
    assert "tenants.acme.id" not in {change.path for change in plan(None, KEPT).changes}
