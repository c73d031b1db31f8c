"""Commands tell apart the tenants that had the same name, one after the other."""

import json
from datetime import timedelta
from hashlib import sha256
from typing import Any

import click
import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, insert

from models import Cancellation, Delivery, TenantIdentity
from tests.support.builders.any_row import insert_any
from tests.support.builders.audit_rows import MORNING, AuditedBatch, batch_id
from tests.support.cli.groups import audit, webhooks
from tests.support.cli.operator import Operator, audit_pages, json_rows
from valetkey.wire.refusals import Code
from worker.base.database_engine import write_transaction
from worker.clock import now
from worker.ledger import quota_usage
from worker.ledger.rejections import count_rejections
from worker.quota.quota_command import quota
from worker.rules.quota_rules import Cost

IDS = ("acme", "acme~2", "acmex", "globex")
TEXT = '[tenants.acme]\ntrust = "queue"\n[tenants.acme.quotas]\ngrants.day = 100\n'
NO_TENANTS = ""
LISTS = (
    *((audit, name) for name in ("list", "summary", "rejections", "cancellations")),
    (webhooks, "list"),
)
SELECTED = {"acme": ["acme", "acme~2"], "acme~1": ["acme"], "acme~2": ["acme~2"]}


def rows(command: click.Command, *words: str) -> list[dict[str, Any]]:
    return json_rows(CliRunner().invoke(command, [*words, "--json"]))


@pytest.fixture
def log(engine: Engine) -> None:
    """Rows of each id in each list; acme and acme~2 have the same batch id."""
    with write_transaction(engine) as connection:
        identities = [{"id": id_, "name": id_.removesuffix("~2")} for id_ in IDS]
        connection.execute(insert(TenantIdentity).values(created_at=MORNING), identities)
        for number, id_ in enumerate(IDS, start=1):
            at = MORNING + timedelta(minutes=number)
            same_id = 1 if id_ == "acme~2" else None
            AuditedBatch(number, ["acme/a"], tenant=id_, id_number=same_id).write(connection)
            cancelled = {"tenant": id_, "batch_id": batch_id(1), "cancelled_at": at}
            connection.execute(insert_any(Cancellation, **cancelled))
            count_rejections(connection, id_, {Code.KEY_UNKNOWN: [sha256(b"").digest()]}, at)
            pending = {"tenant": id_, "batch_number": number, "state": "pending"}
            connection.execute(insert_any(Delivery, **pending))


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize(("command", "name"), LISTS)
def test_a_name_selects_all_tenants_that_had_it_and_an_id_one_of_them(
    command: click.Command, name: str
) -> None:
    for tenant, expected in (SELECTED | {"globex": ["globex"], "globex~1": ["globex"]}).items():
        listed = rows(command, name, "--tenant", tenant)
        assert sorted(row["tenant"] for row in listed) == expected


@pytest.mark.usefixtures("log")
def test_a_grant_is_found_by_the_name_or_the_id_of_its_tenant() -> None:
    for tenant, expected in SELECTED.items():
        found = rows(audit, "list", "--grant", f"{tenant}/{batch_id(1)}.0")
        assert sorted(row["tenant"] for row in found) == expected


@pytest.mark.usefixtures("log")
def test_pages_continue_after_the_row_of_one_tenant_of_the_name() -> None:
    pages = audit_pages("list", "--tenant", "acme", "--limit", "1", "--json")
    assert [[row["tenant"] for row in page] for page in pages] == [["acme~2"], ["acme"]]


def test_apply_warns_that_a_name_used_again_is_a_new_tenant(operator: Operator) -> None:
    operator.apply(TEXT)
    removal = operator.apply(NO_TENANTS, "--yes")
    assert "--revert restores a removed one" in removal.stderr
    planned = operator.apply(TEXT, "--dry-run", "--json")
    assert "WARNING: acme is a new tenant, acme~2: it inherits no batches" in planned.stderr
    risks = json.loads(planned.stdout)["risks"]
    assert [risk["code"] for risk in risks] == ["name_reused", "trusts_queue"]
    assert operator.apply(TEXT).exit_code == 0
    assert operator.stored_config()[1].tenants["acme"].id == "acme~2"
    assert "new tenant" not in operator.apply(TEXT).stderr


def test_quotas_show_the_usage_of_the_tenant_that_has_the_name_now(
    engine: Engine, operator: Operator
) -> None:
    for text in (TEXT, NO_TENANTS, TEXT):
        operator.apply(text, "--yes")
    with write_transaction(engine) as connection:
        quota_usage.charge(connection, "acme", Cost(7, 7), now())
        quota_usage.charge(connection, "acme~2", Cost(1, 1), now())
    for tenant in ("acme", "acme~2"):
        (row,) = rows(quota, "show", "--tenant", tenant)
        assert (row["tenant"], row["used"]) == ("acme~2", 1)
    missing = CliRunner().invoke(quota, ["show", "--tenant", "acme~1"])
    assert "No tenant 'acme~1' is configured" in missing.stderr


def test_a_quota_is_raised_for_the_tenant_that_has_the_name_now(operator: Operator) -> None:
    words = ("raise", "acme", "grants", "day", "--by", "5")
    operator.apply(TEXT)
    assert CliRunner().invoke(quota, words).exit_code == 0
    for text in (NO_TENANTS, TEXT):
        operator.apply(text, "--yes")
    assert operator.stored_config()[1].tenants["acme"].quota_overrides == ()
    assert CliRunner().invoke(quota, words).exit_code == 0
    (override,) = operator.stored_config()[1].tenants["acme"].quota_overrides
    assert override.extra == 5
