from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from valetkey.wire.terms import PolicyKind
from worker.core.tenant_config import Bucket, Policy, Tenant, TenantConfig, TenantKey
from worker.tenants.apply_plan import config_warnings

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
OTHER_STORAGE = Bucket("demo", "b", "r", endpoint="https://s3.example.com", provider="other")


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


@pytest.mark.parametrize("keys", [(), (key(revoked=True),), (key(days=-1),)])
def test_a_tenant_without_a_usable_key_has_a_warning(keys: tuple[TenantKey, ...]) -> None:
    assert codes(*keys)[0] == ("no_usable_key", None)


def test_a_revoked_key_has_no_expiry_warning() -> None:
    assert codes(key("good"), key("old", days=-1, revoked=True)) == []


def test_a_tenant_that_trusts_the_queue_has_a_warning_with_a_hint() -> None:
    acme = Tenant("acme", "queue")
    (warning,) = config_warnings(TenantConfig(tenants={"acme": acme}), NOW)
    assert (warning.code, warning.tenant, warning.key) == ("trusts_queue", "acme", None)
    assert warning.message == "acme trusts the queue: anyone who can write to it can act for acme"
    assert warning.hint == 'create a key, and remove trust = "queue": valetkey keygen acme'


def test_a_key_does_not_hide_that_the_queue_is_trusted_as_well() -> None:
    acme = Tenant("acme", "queue", keys={"billing": key()})
    (warning,) = config_warnings(TenantConfig(tenants={"acme": acme}), NOW)
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


@pytest.mark.parametrize(
    "bucket", [Bucket("demo", "b", "r"), replace(OTHER_STORAGE, provider="r2", post=False)]
)
def test_a_choice_of_type_that_storage_checks_or_has_no_form_for_has_no_warning(
    bucket: Bucket,
) -> None:
    assert type_warnings("video/*", bucket=bucket) == []


def test_a_choice_of_type_that_no_form_leaves_has_no_warning() -> None:
    assert type_warnings("video/*", kinds=("put", "download")) == []
    assert type_warnings("image/*", "video/mp4") == []


def test_uploads_that_nothing_tells_of_have_a_warning() -> None:
    ((code, message),) = type_warnings(bucket=Bucket("demo", "b", "r", probe_rate=0))
    assert code == "uploads_untold"
    assert message.startswith("tenants.acme.allow.demo: nothing tells of uploads")


@pytest.mark.parametrize(
    ("kind", "events_queue"), [("upload", "https://sqs.example.com/1/q"), ("download", None)]
)
def test_without_uploads_or_with_events_there_is_no_such_warning(
    kind: PolicyKind, events_queue: str | None
) -> None:
    bucket = Bucket("demo", "b", "r", probe_rate=0, events_queue=events_queue)
    assert type_warnings(kinds=(kind,), bucket=bucket) == []
