"""`apply`: what it stores, its warnings, confirmations and audit log."""

import json
import os
import pwd
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from models import Base
from tests.integration.conftest import ApplyConfig
from tests.support.builders.delivery_service import lease_delivery
from tests.support.builders.messages import Clock, grant_message
from tests.support.builders.services import InProcessService
from tests.support.cli.operator import ON_SQLITE, Operator, answer_on_terminal
from tests.support.crypto.tokens import sign_message
from valetkey.crypto.keys import generate_key, public_key_line
from worker.base.database_engine import read_transaction, snapshot_transaction, write_transaction
from worker.cli.database import operator_account
from worker.clock import now
from worker.errors import Transient
from worker.ledger import quota_usage
from worker.ledger.tenant_rows import load_config, store_config
from worker.proof.verify.config_check import find_differences
from worker.rules.quota_rules import Cost
from worker.rules.tenant_config import Bucket, TenantConfig
from worker.tenants.apply_command import apply
from worker.webhooks.outbox import DeliveryResult, settle_delivery

EXAMPLE = Path(__file__).parents[3] / "examples" / "tenants.toml"
TEXT = f"""{EXAMPLE.read_text(encoding="utf-8")}
[tenants.globex.endpoints.billing]
url = "https://billing.example.com/hooks"
secret = "env:BILLING_SECRET"
"""
WITHOUT_GLOBEX = TEXT[: TEXT.index("[tenants.globex]")]
CHANGED = TEXT.replace("hour = 50_000", "hour = 60_000")
UNSIGNABLE = CHANGED.replace("us-east-1", "cn-north-1").replace("addressing", "accelerate = true #")
APPLY = (sys.executable, "-c", "from worker.tenants.apply_command import apply; apply()")


RENAMED = (
    TEXT.replace("buckets.demo", "buckets.other")
    .replace("allow.demo", "allow.other")
    .replace("endpoints.billing", "endpoints.audit")
    .replace("hour = 100", "month = { limit = 100, warn = 80 }")
    .replace('max_expires_in = "1h"', 'max_batch = 5\nshared = true\ncallbacks = ["audit"]')
    .replace("tenants.globex", "tenants.initech")
)
LIMIT = "~ tenants.acme.quotas.grants.hour 50,000 → 60,000\nApplied.\n"


@pytest.mark.parametrize(
    ("texts", "options", "printed", "revision"),
    [
        pytest.param([TEXT], "", "+ tenants.acme.quotas.grants.hour 50,000\n", 1, id="a file"),
        pytest.param([TEXT, TEXT], "", "Nothing to change.\n", 1, id="the same again"),
        pytest.param([TEXT, CHANGED], "", LIMIT, 2, id="a changed limit"),
        pytest.param([TEXT, RENAMED], "--yes", "Applied.\n", 2, id="every kind of change at once"),
    ],
)
def test_what_is_applied_is_printed_stored_and_counted_as_a_revision(
    operator: Operator, texts: list[str], options: str, printed: str, revision: int
) -> None:
    *_, result = (operator.apply(text, *options.split()) for text in texts)
    assert (result.exit_code, printed in result.stdout) == (0, True), result.output
    assert operator.stored_config() == (revision, operator.file_config())


def test_everything_of_a_bucket_profile_is_stored(
    operator: Operator, apply_config: ApplyConfig
) -> None:
    bucket = Bucket("full", "acme-full", "us-east-1")
    values: dict[str, Any] = {"addressing": "path", "provider": "other", "max_expires_in": 43_200}
    values |= {"role_seconds": 7_200, "probe_rate": 7}
    for number, field in enumerate(fields(bucket)):
        if isinstance(field.default, bool):
            values[field.name] = not field.default
        elif field.default is None and field.name != "sessions_from":
            values[field.name] = str(number)
    config = TenantConfig({"full": replace(bucket, **values)})
    apply_config(config)
    assert operator.stored_config() == (1, config)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (f"{CHANGED}\nmax = 1\n", "tenants.globex.endpoints.billing.max: no such field"),
        (UNSIGNABLE, "buckets.demo: boto3 cannot sign"),
        (WITHOUT_GLOBEX, "tenants.globex: 0 live grants, 0 pending webhooks"),
    ],
    ids=["an unknown field", "a profile that boto3 refuses", "a removal without --yes"],
)
def test_no_part_of_a_refused_file_is_applied(operator: Operator, text: str, error: str) -> None:
    operator.apply(TEXT)
    before = operator.stored_config()
    result = operator.apply(text)
    assert (result.exit_code, error in result.stderr) == (1, True), result.stderr
    assert operator.stored_config() == before


def test_a_removed_tenant_leaves_only_its_usage(operator: Operator) -> None:
    operator.apply(TEXT)
    with write_transaction(operator.engine) as connection:
        quota_usage.charge(connection, "globex", Cost(7, 7), now())
    assert operator.apply(WITHOUT_GLOBEX, "--yes").exit_code == 0
    tenants = {}
    with read_transaction(operator.engine) as connection:
        for name in ("policies", "quotas", "endpoints", "usage"):
            column = Base.metadata.tables[name].c.tenant
            tenants[name] = "globex" in connection.scalars(select(column)).all()
    assert tenants == {"policies": False, "quotas": False, "endpoints": False, "usage": True}


def test_the_difference_is_printed_as_json(operator: Operator) -> None:
    operator.apply(TEXT)
    result = operator.apply(CHANGED, "--json")
    path = "tenants.acme.quotas.grants.hour"
    output = json.loads(result.stdout)
    assert output["changes"] == [{"path": path, "before": 50_000, "after": 60_000}]
    assert (output["applied"], output["losses"]) == (True, [])
    assert output["trusts_queue"] == ["acme", "globex"]
    risks = [(risk["code"], risk["tenant"]) for risk in output["risks"]]
    assert risks == [("trusts_queue", "acme"), ("trusts_queue", "globex")]


def test_of_two_concurrent_applies_one_is_refused(operator: Operator) -> None:
    operator.file.write_text(TEXT, encoding="utf-8")
    config, barrier = operator.file_config(), Barrier(2)

    def read_and_apply(_number: int) -> str:
        with read_transaction(operator.engine) as connection:
            before = load_config(connection)
        barrier.wait()
        try:
            with write_transaction(operator.engine) as connection:
                store_config(connection, before, config, now())
        except Transient as error:
            return str(error)
        return "applied"

    with ThreadPoolExecutor(2) as pool:
        results = sorted(pool.map(read_and_apply, range(2)))
    assert results == ["another config was applied in the meantime: apply again", "applied"]
    assert operator.stored_config() == (1, config)


@ON_SQLITE
@pytest.mark.parametrize(("reply", "exit_code", "revisions"), [("n", 1, 0), ("y", 0, 1)])
def test_on_a_terminal_nothing_is_applied_without_confirmation(
    operator: Operator, reply: str, exit_code: int, revisions: int
) -> None:
    operator.file.write_text(TEXT, encoding="utf-8")
    process = answer_on_terminal([*APPLY, str(operator.file)], reply)
    assert process.returncode == exit_code, process.stderr
    assert "Apply this?" in process.stderr
    assert operator.stored_config()[0] == revisions


KEY, SPARE, IDLE = (generate_key(f"acme/{name}") for name in ("billing", "spare", "idle"))
KEY_LINE, SPARE_LINE, IDLE_LINE = map(public_key_line, (KEY, SPARE, IDLE))
HEAD = """\
[buckets.demo]
bucket = "demo"
region = "us-east-1"

[tenants.acme.allow.demo]
prefixes = ["acme/"]
kinds = ["download"]
"""
ENDPOINT = """
[tenants.acme.endpoints.billing]
url = "https://billing.example.com/hooks"
secret = "env:BILLING_SECRET"
"""
KEYS = "[tenants.acme.keys]\n"
SIGNED = f"{HEAD}{KEYS}{KEY_LINE}\n{SPARE_LINE}\n{IDLE_LINE}\n{ENDPOINT}"
REVOKED = KEY_LINE.replace(" }", ", revoked = true }")
WITHOUT_KEY = SIGNED.replace(KEY_LINE, REVOKED)
OTHER_TENANT = SIGNED.replace("tenants.acme", "tenants.globex").replace("acme/", "globex/")


@pytest.fixture
def in_use(operator: Operator, service: InProcessService, clock: Clock) -> Operator:
    """An operator whose config is in use.

    One key has two live grants. An endpoint has one sent and one pending webhook.
    """
    assert operator.apply(SIGNED).exit_code == 0
    clock.time = datetime.now(UTC)  # the clock of apply
    for item in ("acme/a", "acme/b"):
        message = grant_message([item], callback="billing")
        assert service.issue(sign_message(message, KEY, clock()))["status"] == "issued"
    with write_transaction(operator.engine) as connection:
        lease = lease_delivery(connection, "lease", clock())
        assert lease is not None
        assert settle_delivery(connection, lease, DeliveryResult(204, None, None), clock())
    return operator


REMOVALS = {
    "tenants.acme.keys.billing: 2 live grants, 0 pending webhooks": WITHOUT_KEY,
    "tenants.acme.endpoints.billing: 0 live grants, 1 pending": SIGNED.replace(ENDPOINT, ""),
    "tenants.acme: 2 live grants, 1 pending webhooks": OTHER_TENANT,
}


def test_what_is_in_use_is_not_removed_without_a_terminal_or_yes(in_use: Operator) -> None:
    before = in_use.stored_config()
    for removal, text in REMOVALS.items():
        result = in_use.apply(text)
        assert result.exit_code == 1
        assert removal in result.stderr
        assert "there is no terminal to confirm it on: give --" in result.stderr
    assert in_use.stored_config() == before
    assert len({change.at for change in in_use.change_records()}) == 1


@pytest.mark.parametrize("removal", REMOVALS)
def test_with_yes_what_is_in_use_is_removed_and_listed(in_use: Operator, removal: str) -> None:
    result = in_use.apply(REMOVALS[removal], "--yes")
    assert result.exit_code == 0, result.output
    assert "removes or revokes" in result.stderr
    assert removal in result.stderr
    assert in_use.stored_config()[1] == in_use.file_config()


def test_a_dry_run_lists_removals_and_asks_nothing(in_use: Operator) -> None:
    result = in_use.apply(SIGNED.replace(KEY_LINE, ""), "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    output = json.loads(result.stdout)
    path = "tenants.acme.keys.billing"
    assert output["losses"] == [{"path": path, "live_grants": 2, "pending_webhooks": 0}]
    assert output["applied"] is False
    assert in_use.stored_config()[0] == 1


@ON_SQLITE
def test_on_a_terminal_removals_are_listed_before_the_question(in_use: Operator) -> None:
    in_use.file.write_text(WITHOUT_KEY, encoding="utf-8")
    process = answer_on_terminal([*APPLY, str(in_use.file)], "n")
    assert process.stderr.index("2 live grants") < process.stderr.index("Apply this?")
    assert in_use.stored_config()[0] == 1


OTHER_DATABASE = ["--yes", "--replace-all", "other"]


def test_every_tenant_is_replaced_only_in_a_database_that_the_operator_names(
    in_use: Operator,
) -> None:
    before = in_use.stored_config()
    in_use.file.write_text(OTHER_TENANT, encoding="utf-8")
    for options, text in ((["--yes"], "give --replace-all"), (OTHER_DATABASE, "not other")):
        result = CliRunner().invoke(apply, [str(in_use.file), *options])
        assert (result.exit_code, text in result.stderr) == (1, True), result.output
    assert in_use.stored_config() == before
    named = CliRunner().invoke(apply, [str(in_use.file), "--replace-all", in_use.database_name])
    assert named.exit_code == 0, named.output
    assert in_use.stored_config()[1] == in_use.file_config()


def test_the_name_of_another_database_is_refused_whatever_is_applied(operator: Operator) -> None:
    operator.file.write_text(OTHER_TENANT, encoding="utf-8")
    result = CliRunner().invoke(apply, [str(operator.file), *OTHER_DATABASE])
    assert (result.exit_code, "not other: nothing" in result.stderr) == (1, True), result.output


@ON_SQLITE
@pytest.mark.parametrize(("reply", "revision"), [("y", 1), ("valetkey.db", 2)])
def test_on_a_terminal_the_operator_types_the_name_of_the_database(
    in_use: Operator, reply: str, revision: int
) -> None:
    in_use.file.write_text(OTHER_TENANT, encoding="utf-8")
    process = answer_on_terminal([*APPLY, str(in_use.file), "--yes"], reply)
    assert "Type its name" in process.stderr
    assert in_use.stored_config()[0] == revision


def test_every_run_warns_of_tenants_that_trust_the_queue(operator: Operator) -> None:
    text = f'{HEAD}[tenants.acme]\ntrust = "queue"\n'
    warning = "WARNING: acme trusts the queue: anyone who can write to it can act for acme"
    for options in ([], [], ["--dry-run"], ["--json"]):
        result = operator.apply(text, *options)
        assert warning in result.stderr
        assert warning not in result.stdout


def test_every_change_is_recorded_with_its_author_and_values(operator: Operator) -> None:
    operator.apply(SIGNED)
    first = operator.change_records()
    changed = WITHOUT_KEY.replace('"acme/"', '"acme/", "reports/"')
    operator.apply(changed, "--yes")
    second = operator.change_records()[len(first) :]
    assert {(change.by, change.through, change.before) for change in first} == {
        (pwd.getpwuid(os.getuid()).pw_name, "apply", None)
    }
    assert [(change.path, change.before, change.after) for change in second] == [
        ("tenants.acme.allow.demo.prefixes", ["acme/"], ["acme/", "reports/"]),
        ("tenants.acme.keys.billing.revoked", False, True),
    ]
    values = {change.path: change.after for change in first}
    assert f'"{values["tenants.acme.keys.billing.sign"]}"' in KEY_LINE


def test_the_log_alone_gives_each_config_that_was_applied(operator: Operator) -> None:
    for text in (TEXT, RENAMED, CHANGED):
        assert operator.apply(text, "--yes").exit_code == 0
        with snapshot_transaction(operator.engine) as connection:
            assert find_differences(connection) == []


def test_what_is_not_applied_is_not_recorded(operator: Operator) -> None:
    operator.apply(SIGNED)
    recorded = operator.change_records()
    operator.apply(OTHER_TENANT, "--dry-run")
    operator.apply(OTHER_TENANT)  # refused, as it removes a tenant
    operator.apply(SIGNED)
    assert operator.change_records() == recorded


def test_a_change_is_recorded_in_the_transaction_that_makes_it(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("worker.tenants.config_changes.record_changes", fails)
    assert isinstance(operator.apply(SIGNED).exception, RuntimeError)
    assert operator.stored_config()[0] == 0


def test_an_account_without_a_name_is_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)
    monkeypatch.setenv("USER", "somebody else")
    assert operator_account() == "uid 2147483641"


def test_an_overlap_is_refused_at_its_line(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALETKEY_S3_ENDPOINT", "https://s3.example.com")  # of the profile demo
    again = HEAD.replace("s.demo]", 's.again]\nendpoint = "https://s3.example.com"')
    again = again.replace("acme", "globex").replace('"globex/"', '"acme/2026/"')
    text = SIGNED + again.replace("allow.demo", "allow.again")
    result = operator.apply(f'{text}[tenants.globex]\ntrust = "queue"\n')
    line = text.splitlines().index('prefixes = ["acme/2026/"]') + 1
    problem, error = result.stderr.splitlines()
    assert problem.startswith(f"{operator.file}:{line}: tenants.globex.allow.again.prefixes[0]: ")
    assert (result.exit_code, error) == (
        1,
        f"Error: {operator.file} is not valid: nothing was done.",
    )
    assert operator.stored_config()[0] == 0


def test_a_missing_file_is_a_usage_error(operator: Operator) -> None:
    assert CliRunner().invoke(apply, [str(operator.file)]).exit_code == 2
