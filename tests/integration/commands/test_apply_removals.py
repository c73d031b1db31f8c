"""Tests the warnings, confirmations and audit log of apply, in particular for removals in use."""

import json
import os
import pty
import pwd
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.support.builders.deliveries import lease_delivery
from tests.support.builders.messages import Clock, grant_message
from tests.support.builders.services import InProcessService
from tests.support.cli.operator import Operator
from tests.support.crypto.tokens import sign_message
from valetkey.crypto.keys import generate_key, public_key_line
from worker.commands.database import operator_account
from worker.db.engine import write_transaction
from worker.db.outbox import DeliveryResult, settle_delivery

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
TEXT = f"{HEAD}{KEYS}{KEY_LINE}\n{SPARE_LINE}\n{IDLE_LINE}\n{ENDPOINT}"
REVOKED = KEY_LINE.replace(" }", ", revoked = true }")
OTHER_TENANT = TEXT.replace("tenants.acme", "tenants.globex").replace("acme/", "globex/")
APPLY = (sys.executable, "-c", "from worker.commands.apply import apply; apply()")


@pytest.fixture
def operator(
    engine: Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Operator:
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    return Operator(engine, tmp_path / "tenants.toml")


@pytest.fixture
def in_use(operator: Operator, service: InProcessService, clock: Clock) -> Operator:
    """An operator whose config is in use.

    One key has two live grants. An endpoint has one sent and one pending webhook.
    """
    assert operator.apply(TEXT).exit_code == 0
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
    "tenants.acme.keys.billing: 2 live grants, 0 pending webhooks": TEXT.replace(KEY_LINE, REVOKED),
    "tenants.acme.endpoints.billing: 0 live grants, 1 pending": TEXT.replace(ENDPOINT, ""),
    "tenants.acme: 2 live grants, 1 pending webhooks": OTHER_TENANT,
}


def test_what_is_in_use_is_not_removed_without_a_terminal_or_yes(
    in_use: Operator,
) -> None:
    before = in_use.stored_config()
    for removal, text in REMOVALS.items():
        result = in_use.apply(text)
        assert result.exit_code == 1
        assert removal in result.stderr
        assert "give --yes" in result.stderr
    assert in_use.stored_config() == before
    assert len({change.at for change in in_use.change_records()}) == 1


def test_with_yes_what_is_in_use_is_removed_and_listed(in_use: Operator) -> None:
    for removal, text in REMOVALS.items():
        result = in_use.apply(text, "--yes")
        assert result.exit_code == 0, result.output
        assert "removes or revokes" in result.stderr
        assert removal in result.stderr
        assert in_use.stored_config()[1] == in_use.file_config()
        in_use.apply(TEXT, "--yes")


def test_an_unused_key_is_removed_without_confirmation(in_use: Operator) -> None:
    result = in_use.apply(TEXT.replace(IDLE_LINE, ""))
    assert result.exit_code == 0, result.output
    assert "removes or revokes" not in result.stderr
    assert in_use.stored_config() == (2, in_use.file_config())


def test_a_dry_run_lists_removals_and_asks_nothing(in_use: Operator) -> None:
    result = in_use.apply(TEXT.replace(KEY_LINE, ""), "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    output = json.loads(result.stdout)
    path = "tenants.acme.keys.billing"
    assert output["losses"] == [{"path": path, "live_grants": 2, "pending_webhooks": 0}]
    assert output["applied"] is False
    assert in_use.stored_config()[0] == 1


def test_on_a_terminal_removals_are_listed_before_the_question(in_use: Operator) -> None:
    in_use.file.write_text(TEXT.replace(KEY_LINE, REVOKED), encoding="utf-8")
    terminal, stdin = pty.openpty()
    os.write(terminal, b"n\n")
    process = subprocess.run(
        [*APPLY, str(in_use.file)], stdin=stdin, capture_output=True, text=True, check=False
    )
    os.close(stdin)
    os.close(terminal)
    assert process.stderr.index("2 live grants") < process.stderr.index("Apply this?")
    assert in_use.stored_config()[0] == 1


def test_a_revoked_key_is_refused_from_the_next_message_on(
    in_use: Operator, service: InProcessService, clock: Clock
) -> None:
    in_use.apply(TEXT.replace(KEY_LINE, REVOKED), "--yes")
    codes = {
        key.id: service.issue(sign_message(grant_message(), key, clock()))
        .get("refusal", {})
        .get("code")
        for key in (KEY, SPARE)
    }
    assert codes == {"acme/billing": "key_revoked", "acme/spare": None}


def test_every_run_warns_of_tenants_that_trust_the_queue(operator: Operator) -> None:
    text = f'{HEAD}[tenants.acme]\ntrust = "queue"\n'
    warning = "WARNING: acme trusts the queue: anyone who can write to it can act for acme"
    for options in ([], [], ["--dry-run"], ["--json"]):
        result = operator.apply(text, *options)
        assert warning in result.stderr
        assert warning not in result.stdout


def test_there_are_warnings_of_keys_that_have_expired_or_expire_soon(operator: Operator) -> None:
    soon = (datetime.now(UTC) + timedelta(days=29)).isoformat()
    text = TEXT.replace(KEY_LINE, KEY_LINE.replace(" }", f", expires = {soon} }}"))
    text = text.replace(SPARE_LINE, SPARE_LINE.replace(" }", ", expires = 2026-01-01 }"))
    result = operator.apply(text, "--json")
    assert "key acme/billing expires on" in result.stderr
    assert "key acme/spare expired on 2026-01-01 00:00 UTC" in result.stderr
    codes = {risk["key"]: risk["code"] for risk in json.loads(result.stdout)["risks"]}
    assert codes == {"billing": "key_expires_soon", "spare": "key_expired"}


def test_there_is_a_warning_of_a_tenant_without_a_usable_key(operator: Operator) -> None:
    result = operator.apply(f"{HEAD}{KEYS}{REVOKED}\n")
    assert result.exit_code == 0, result.output
    assert "WARNING: acme has no usable key" in result.stderr


def test_every_change_is_recorded_with_its_author_and_values(operator: Operator) -> None:
    operator.apply(TEXT)
    first = operator.change_records()
    operator.apply(
        TEXT.replace(KEY_LINE, REVOKED).replace('"acme/"', '"acme/", "reports/"'), "--yes"
    )
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


def test_what_is_not_applied_is_not_recorded(operator: Operator) -> None:
    operator.apply(TEXT)
    recorded = operator.change_records()
    operator.apply(OTHER_TENANT, "--dry-run")
    operator.apply(OTHER_TENANT)  # refused, as it removes a tenant
    operator.apply(TEXT)
    assert operator.change_records() == recorded


def test_a_change_is_recorded_in_the_transaction_that_makes_it(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("worker.db.audit.changes.record_changes", fails)
    assert isinstance(operator.apply(TEXT).exception, RuntimeError)
    assert operator.stored_config()[0] == 0


def test_an_account_without_a_name_is_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)
    monkeypatch.setenv("USER", "somebody else")
    assert operator_account() == "uid 2147483641"


def test_an_overlap_is_reported_with_both_tenants(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALETKEY_S3_ENDPOINT", "https://s3.example.com")  # of the profile demo
    globex = """
[buckets.again]
bucket = "demo"
region = "us-east-1"
endpoint = "https://s3.example.com"

[tenants.globex]
trust = "queue"

[tenants.globex.allow.again]
prefixes = ["acme/2026/"]
kinds = ["download"]
"""
    result = operator.apply(f"{TEXT}{globex}")
    assert result.exit_code == 1
    line = f"{TEXT}{globex}".splitlines().index('prefixes = ["acme/2026/"]') + 1
    problem, error = result.stderr.splitlines()
    assert problem == (
        f"{operator.file}:{line}: tenants.globex.allow.again.prefixes[0]: "
        '"acme/2026/" of globex overlaps "acme/" of acme in the bucket demo (line 6) '
        "(make them disjoint, or write `shared = true` in both policies)"
    )
    assert error == f"Error: {operator.file} was not applied."
    assert operator.stored_config()[0] == 0
