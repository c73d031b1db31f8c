"""What apply says and asks where it takes away what is in use, and of whom to beware."""

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

from tests.support.builders.messages import Clock, grant_message
from tests.support.builders.services import InProcessService
from tests.support.cli.operator import Operator
from tests.support.crypto.tokens import sign_message
from valetkey.crypto.keys import generate_key, public_key_line
from worker.commands.database import operator_account as account
from worker.db.outbox import DeliveryResult, Outbox

KEY, SPARE, IDLE = (generate_key(f"acme/{name}") for name in ("billing", "spare", "idle"))
LINE, SPARES, IDLES = map(public_key_line, (KEY, SPARE, IDLE))
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
TEXT = f"{HEAD}{KEYS}{LINE}\n{SPARES}\n{IDLES}\n{ENDPOINT}"
REVOKED = LINE.replace(" }", ", revoked = true }")
OTHER_TENANT = TEXT.replace("tenants.acme", "tenants.globex").replace("acme/", "globex/")
APPLY = (sys.executable, "-c", "from worker.commands.apply import apply; apply()")


@pytest.fixture
def operator(
    engine: Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Operator:
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    return Operator(engine, tmp_path / "tenants.toml")


@pytest.fixture
def in_use(operator: Operator, issuer: InProcessService, clock: Clock) -> Operator:
    """One key has two live grants; of an endpoint's webhooks one is sent, and one not yet."""
    assert operator.apply(TEXT).exit_code == 0
    clock.time = datetime.now(UTC)  # which is apply's
    for item in ("acme/a", "acme/b"):
        asked = grant_message([item], callback="billing")
        assert issuer.issue(sign_message(asked, KEY, clock()))["status"] == "issued"
    outbox = Outbox(operator.engine, lambda: "lease")
    parcel = outbox.take(clock())
    assert parcel is not None
    assert outbox.settle(parcel, DeliveryResult(204, None, None), clock())
    return operator


LOSSES = {
    "tenants.acme.keys.billing: 2 live grants, 0 pending webhooks": TEXT.replace(LINE, REVOKED),
    "tenants.acme.endpoints.billing: 0 live grants, 1 pending": TEXT.replace(ENDPOINT, ""),
    "tenants.acme: 2 live grants, 1 pending webhooks": OTHER_TENANT,
}


def test_what_is_in_use_is_not_taken_away_without_yes_where_nobody_could_be_asked(
    in_use: Operator,
) -> None:
    before = in_use.stored()
    for loss, text in LOSSES.items():
        result = in_use.apply(text)
        assert result.exit_code == 1
        assert loss in result.stderr
        assert "give --yes" in result.stderr
    assert in_use.stored() == before
    assert len({entry.at for entry in in_use.changed()}) == 1


def test_with_yes_what_is_in_use_is_taken_away_and_named(in_use: Operator) -> None:
    for loss, text in LOSSES.items():
        result = in_use.apply(text, "--yes")
        assert result.exit_code == 0, result.output
        assert loss in result.stderr
        assert in_use.stored()[1] == in_use.written()
        in_use.apply(TEXT, "--yes")


def test_a_key_that_nobody_used_goes_without_asking(in_use: Operator) -> None:
    result = in_use.apply(TEXT.replace(IDLES, ""))
    assert result.exit_code == 0, result.output
    assert "takes away" not in result.stderr
    assert in_use.stored() == (2, in_use.written())


def test_a_dry_run_says_what_would_be_lost_and_asks_nothing(in_use: Operator) -> None:
    result = in_use.apply(TEXT.replace(LINE, ""), "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    path = "tenants.acme.keys.billing"
    assert said["losses"] == [{"path": path, "live_grants": 2, "pending_webhooks": 0}]
    assert said["applied"] is False
    assert in_use.stored()[0] == 1


def test_on_a_terminal_the_loss_is_named_before_it_is_asked(in_use: Operator) -> None:
    in_use.file.write_text(TEXT.replace(LINE, REVOKED), encoding="utf-8")
    terminal, stdin = pty.openpty()
    os.write(terminal, b"n\n")
    done = subprocess.run(
        [*APPLY, str(in_use.file)], stdin=stdin, capture_output=True, text=True, check=False
    )
    os.close(stdin)
    os.close(terminal)
    assert done.stderr.index("2 live grants") < done.stderr.index("Apply this?")
    assert in_use.stored()[0] == 1


def test_a_revoked_key_is_refused_from_the_next_message_on(
    in_use: Operator, issuer: InProcessService, clock: Clock
) -> None:
    in_use.apply(TEXT.replace(LINE, REVOKED), "--yes")
    codes = {
        key.id: issuer.issue(sign_message(grant_message(), key, clock()))
        .get("refusal", {})
        .get("code")
        for key in (KEY, SPARE)
    }
    assert codes == {"acme/billing": "key_revoked", "acme/spare": None}


def test_whoever_trusts_the_queue_is_named_every_time(operator: Operator) -> None:
    text = f'{HEAD}[tenants.acme]\ntrust = "queue"\n'
    loud = "WARNING: acme trusts the queue: whoever can write to it speaks for acme"
    for options in ([], [], ["--dry-run"], ["--json"]):
        result = operator.apply(text, *options)
        assert loud in result.stderr
        assert loud not in result.stdout


def test_keys_that_have_expired_or_soon_will_are_named(operator: Operator) -> None:
    soon = (datetime.now(UTC) + timedelta(days=29)).isoformat()
    text = TEXT.replace(LINE, LINE.replace(" }", f", expires = {soon} }}"))
    text = text.replace(SPARES, SPARES.replace(" }", ", expires = 2026-01-01 }"))
    result = operator.apply(text, "--json")
    assert "key acme/billing expires on" in result.stderr
    assert "key acme/spare expired on 2026-01-01 00:00 UTC" in result.stderr
    codes = {risk["key"]: risk["code"] for risk in json.loads(result.stdout)["risks"]}
    assert codes == {"billing": "key_expires_soon", "spare": "key_expired"}


def test_a_tenant_whose_keys_are_all_of_no_use_is_named(operator: Operator) -> None:
    result = operator.apply(f"{HEAD}{KEYS}{REVOKED}\n")
    assert result.exit_code == 0, result.output
    assert "WARNING: acme has no usable key" in result.stderr


def test_everything_applied_is_recorded_by_whom_and_as_it_was(operator: Operator) -> None:
    operator.apply(TEXT)
    first = operator.changed()
    operator.apply(TEXT.replace(LINE, REVOKED).replace('"acme/"', '"acme/", "reports/"'), "--yes")
    second = operator.changed()[len(first) :]
    assert {(entry.by, entry.through, entry.before) for entry in first} == {
        (pwd.getpwuid(os.getuid()).pw_name, "apply", None)
    }
    assert [(entry.path, entry.before, entry.after) for entry in second] == [
        ("tenants.acme.allow.demo.prefixes", ["acme/"], ["acme/", "reports/"]),
        ("tenants.acme.keys.billing.revoked", False, True),
    ]
    whole = {entry.path: entry.after for entry in first}
    assert f'"{whole["tenants.acme.keys.billing.sign"]}"' in LINE


def test_what_is_not_applied_is_not_recorded(operator: Operator) -> None:
    operator.apply(TEXT)
    recorded = operator.changed()
    operator.apply(OTHER_TENANT, "--dry-run")
    operator.apply(OTHER_TENANT)  # refused, as it removes a tenant
    operator.apply(TEXT)
    assert operator.changed() == recorded


def test_a_change_is_recorded_in_the_transaction_that_makes_it(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("worker.db.audit.changes.record_changes", fails)
    assert isinstance(operator.apply(TEXT).exception, RuntimeError)
    assert operator.stored()[0] == 0


def test_an_account_without_a_name_is_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)
    monkeypatch.setenv("USER", "somebody else")
    assert account() == "uid 2147483641"


def test_an_operator_sees_both_sides_of_an_overlap(
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
    said, closing = result.stderr.splitlines()
    assert said == (
        f"{operator.file}:{line}: tenants.globex.allow.again.prefixes[0]: "
        '"acme/2026/" of globex overlaps "acme/" of acme in the bucket demo (line 6) '
        "(make them disjoint, or write `shared = true` in both policies)"
    )
    assert closing == f"Error: {operator.file} was not applied."
    assert operator.stored()[0] == 0
