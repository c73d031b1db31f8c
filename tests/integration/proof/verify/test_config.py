"""`audit verify` finds what decides and is not in the log: the config in force, keys, usage."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Engine, text

from models import Chunk
from tests.support.builders.messages import Clock, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.crypto.tokens import sign_message, tenant_key, tenant_keys
from valetkey.crypto.keys import PrivateKey, generate_key
from worker.base.database_engine import snapshot_transaction, write_transaction
from worker.doctor.metrics_command import PARTS
from worker.ledger.tenant_rows import load_config
from worker.proof.proof_monitoring import check_config
from worker.proof.verify.config_check import find_differences
from worker.proof.verify.config_watch import ConfigWatch
from worker.proof.verify.verification import VerifyOptions, verify_log
from worker.quota.quota_changes import raise_quota
from worker.rules.tenant_config import (
    Quota,
    QuotaOverride,
    TenantConfig,
    TenantKey,
    WebhookEndpoint,
)
from worker.shared.monitoring import Window
from worker.tenants.config_changes import ChangeAuthor

KEY, OTHER_KEY = generate_key("acme/billing"), generate_key("acme/billing")
ENDPOINT = WebhookEndpoint("hook", "https://billing.example.com/", "env:SECRET")
CONFIG = tenant_config(
    Quota("grants", "day", 100),
    trust="keys",
    keys=tenant_keys(KEY),
    endpoints={"hook": ENDPOINT},
)
RAISE = "quota_overrides: tenant acme, name grants.day: an increase by"
LOGGED = "is not the value in the log of the config"
ABSENT = "is not in the log of the config"
MISSING = "is in the log of the config, but not in the table"

Find = Callable[[], list[str]]


@pytest.fixture
def service(service: InProcessService, clock: Clock) -> InProcessService:
    service.apply(CONFIG)
    with write_transaction(service.engine) as connection:
        acme = load_config(connection).tenants["acme"]
        override = QuotaOverride("grants", "day", 5, clock() + timedelta(hours=1))
        raise_quota(connection, acme, override, ChangeAuthor(clock(), "ops", "quota raise"))
    assert issued(service, 2)
    return service


@pytest.fixture
def find(service: InProcessService, clock: Clock) -> Find:
    """A function that verifies the log at the time of the service, and returns all problems."""
    options = VerifyOptions(max_problems=100, now=clock())
    return lambda: [str(problem) for problem in verify_log(service.url, options).problems]


def issued(service: InProcessService, items: int = 1, key: PrivateKey | None = KEY) -> bool:
    """Send a signed request, or an unsigned one without a key; tell whether it was granted."""
    message = grant_message([f"acme/{number}.pdf" for number in range(items)])
    raw = sign_message(message, key, service.context.now()) if key else message
    return bool(service.issue(raw)["status"] == "issued")


def execute(service: InProcessService, *statements: str) -> None:
    with write_transaction(service.engine) as connection:
        for statement in statements:
            connection.execute(text(statement))


SWAP, SWAP_BACK = (
    f"UPDATE tenant_keys SET sign = '{key.sign}', seal = '{key.seal}'"  # noqa: S608 - constants
    for key in map(tenant_key, (OTHER_KEY, KEY))
)
INSERT_KEY = (
    "INSERT INTO tenant_keys SELECT tenant, 'evil', seal, sign, NULL, revoked FROM tenant_keys"
)
RELOAD = "UPDATE config_revisions SET revision = revision + 1"


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (SWAP, f"tenant_keys: tenant acme, name billing: sign {LOGGED}"),
        (INSERT_KEY, f"tenant_keys: tenant acme, name evil: {ABSENT}"),
        ("DELETE FROM tenant_keys", f"tenant_keys: tenant acme, name billing: {MISSING}"),
        ("UPDATE tenants SET trust = 'queue'", f"tenants: tenant acme: trust {LOGGED}"),
        ("UPDATE policies SET prefixes = '[\"\"]'", f"tenant acme, name demo: prefixes {LOGGED}"),
        ("UPDATE policies SET callbacks = '[]'", f"tenant acme, name demo: callbacks {LOGGED}"),
        (
            'UPDATE quotas SET "limit" = 500',
            f"quotas: tenant acme, name grants.day: limit {LOGGED}",
        ),
        ("DELETE FROM quotas", f"quotas: tenant acme, name grants.day: {MISSING}"),
        ("UPDATE endpoints SET url = 'https://evil/'", f"name hook: url {LOGGED}"),
        ("UPDATE buckets SET bucket = 'other'", f"buckets: name demo: bucket {LOGGED}"),
        ("UPDATE quota_overrides SET extra = 500", f"{RAISE} 500 {ABSENT}"),
        ("DELETE FROM quota_overrides", f"{RAISE} 5 {MISSING}"),
    ],
)
def test_a_config_that_is_changed_by_sql_is_found(
    service: InProcessService, find: Find, statement: str, problem: str
) -> None:
    assert find() == []
    execute(service, statement)
    found = find()
    assert any(problem in each for each in found), found
    with snapshot_transaction(service.engine) as connection:
        assert list(map(str, find_differences(connection))) == found


def test_a_key_that_was_swapped_and_swapped_back_is_found(
    service: InProcessService, find: Find
) -> None:
    execute(service, SWAP, RELOAD)
    assert issued(service, key=OTHER_KEY)
    execute(service, SWAP_BACK, RELOAD)
    (problem,) = find()
    assert "chunk 0: was signed by another key than billing was" in problem


def test_an_unsigned_grant_is_found_though_trust_was_set_back(
    service: InProcessService, find: Find
) -> None:
    execute(service, "UPDATE tenants SET trust = 'queue'", RELOAD)
    assert issued(service, key=None)
    execute(service, "UPDATE tenants SET trust = 'keys'", RELOAD)
    (problem,) = find()
    assert "chunk 0: is not signed" in problem


def test_a_revoked_key_that_was_allowed_for_a_while_is_found(
    service: InProcessService, find: Find
) -> None:
    revoked = replace(tenant_key(KEY), revoked=True)
    service.apply(with_keys(revoked))
    execute(service, "UPDATE tenant_keys SET revoked = NOT revoked", RELOAD)
    assert issued(service)
    execute(service, "UPDATE tenant_keys SET revoked = NOT revoked", RELOAD)
    (problem,) = find()
    assert "was signed by billing, which was not valid" in problem


def test_an_expired_key_that_was_allowed_for_longer_is_found(
    service: InProcessService, find: Find, clock: Clock
) -> None:
    service.apply(with_keys(replace(tenant_key(KEY), expires=clock() + timedelta(minutes=1))))
    execute(service, "UPDATE tenant_keys SET expires = NULL", RELOAD)
    clock.forward(hours=2)
    assert issued(service)
    chunk, key = find()
    assert "was signed by billing, which was not valid" in chunk
    assert f"tenant_keys: tenant acme, name billing: expires {LOGGED}" in key


def with_keys(*keys: TenantKey) -> TenantConfig:
    acme = replace(CONFIG.tenants["acme"], keys={key.name: key for key in keys})
    return replace(CONFIG, tenants={"acme": acme})


def test_a_worker_that_was_kept_from_reading_the_new_config_is_found(
    service: InProcessService, find: Find, clock: Clock
) -> None:
    service.apply(with_keys(tenant_key(OTHER_KEY)))
    execute(service, "UPDATE config_revisions SET revision = revision - 1")
    assert issued(service)  # with the key that was replaced: it has that config still
    assert find() == []  # it may have read the config just before
    clock.forward(hours=2)
    assert issued(service)
    (problem,) = find()
    assert "was decided by the config after change" in problem


def test_changes_by_commands_are_no_problem(
    service: InProcessService, find: Find, clock: Clock
) -> None:
    service.apply(TenantConfig())
    service.apply(with_keys(tenant_key(OTHER_KEY)))  # acme~2
    clock.forward(minutes=1)
    assert issued(service, key=OTHER_KEY)
    acme = CONFIG.tenants["acme"]
    service.apply(replace(CONFIG, tenants={"acme": replace(acme, trust="queue", keys={})}))
    assert issued(service, key=None)
    clock.forward(hours=2)
    with write_transaction(service.engine) as connection:  # deletes the one that has expired
        override = QuotaOverride("grants", "day", 7, clock() + timedelta(hours=1))
        tenant = load_config(connection).tenants["acme"]
        raise_quota(connection, tenant, override, ChangeAuthor(clock(), "ops", "quota raise"))
    assert find() == []


def test_the_thumbprint_is_the_one_of_the_standard(service: InProcessService) -> None:
    (thumbprint,) = service.rows(Chunk.key_thumbprint)
    assert thumbprint[0] == KEY.signing_key.thumbprint()


@pytest.mark.parametrize("window", ["minute", "hour", "day", "month", "live"])
@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM usage",
        "UPDATE usage SET window_start = '2026-11-24 12:34:56.000000{zone}'",
        "UPDATE usage SET window_start = '2026-10-01 00:00:00.000000{zone}'",
    ],
    ids=["deleted", "moved within it", "moved out of it"],
)
def test_usage_that_no_charge_finds_any_more_is_found(
    service: InProcessService, find: Find, window: str, statement: str
) -> None:
    zone = "" if service.engine.dialect.name == "sqlite" else "+00"
    execute(service, f"{statement.format(zone=zone)} WHERE \"window\" = '{window}'")
    found = find()
    assert any(each.startswith(f"usage: tenant acme: window {window}") for each in found), found


def test_usage_of_a_day_is_looked_for_although_its_hours_are_deleted(
    service: InProcessService, find: Find, clock: Clock
) -> None:
    clock.forward(days=4)
    options = VerifyOptions(max_problems=100, now=clock())
    execute(service, "DELETE FROM usage WHERE \"window\" IN ('minute', 'hour')")
    assert verify_log(service.url, options).is_sound
    execute(service, "DELETE FROM usage WHERE \"window\" = 'day'")
    assert not verify_log(service.url, options).is_sound
    assert any("window hour" in each for each in find())  # at the earlier time


def test_the_upkeep_worker_logs_that_the_config_differs_once_and_at_most_each_minute(
    service: InProcessService, capsys: pytest.CaptureFixture[str]
) -> None:
    check = ConfigWatch()
    check(service.context)
    assert "config_differs" not in capsys.readouterr().out
    execute(service, "UPDATE policies SET overwrite = NOT overwrite")
    for _ in range(2):
        check(service.context)
    assert capsys.readouterr().out.count("config_differs") == 1


def test_doctor_and_metrics_say_that_the_config_differs(
    service: InProcessService, clock: Clock
) -> None:
    seen = []
    for statement in (SWAP_BACK, SWAP):
        execute(service, statement)
        with snapshot_transaction(service.engine) as connection:
            check = check_config(find_differences(connection))
            window = Window("24h", timedelta(days=1))
            (metric,) = PARTS["config"](connection, clock(), window)
        seen.append((check.state, "name billing: sign" in check.message, metric.samples[0].value))
    assert seen == [("ok", False, 0), ("fail", True, 2)]


def test_an_apply_while_the_config_is_compared_is_no_difference(
    service: InProcessService, engine: Engine
) -> None:
    with snapshot_transaction(engine) as connection:
        connection.execute(text("SELECT count(*) FROM tenants")).one()
        service.apply(with_keys(tenant_key(OTHER_KEY)))
        assert find_differences(connection) == []
