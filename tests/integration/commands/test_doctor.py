import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from tests.integration.conftest import Declare
from tests.support.builders.messages import DEMO, Clock, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from worker.commands.doctor import doctor
from worker.core.tenants.config import Endpoint, TenantConfig
from worker.db.outbox import DeliveryResult, Outbox

ENDPOINT = Endpoint("billing", "https://billing.example.com/hooks", "env:BILLING_SECRET")
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PASSWORD = "hunter2"


@pytest.fixture(autouse=True)
def surroundings(
    valkey_url: str, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty database, a broker without workers to wait for, and the workers' clock."""
    monkeypatch.setenv("VALETKEY_BROKER_URL", valkey_url)
    monkeypatch.setenv("VALETKEY_RESULT_URL", valkey_url)
    monkeypatch.setenv("VALETKEY_DATABASE_URL", f"sqlite:///{tmp_path / 'empty.db'}")
    monkeypatch.setattr("worker.net.broker_status._ANSWERED", 0.05)
    monkeypatch.setattr("worker.commands.doctor.now", clock)


def run() -> Result:
    return CliRunner().invoke(doctor, ["--json"])


def states(result: Result) -> dict[str, str]:
    """The worst state of each check."""
    worst: dict[str, str] = {}
    for line in result.stdout.splitlines():
        check = json.loads(line)
        before = worst.get(check["check"], "ok")
        worst[check["check"]] = max(check["state"], before, key=("ok", "warn", "fail").index)
    return worst


WELL = {
    "settings": "ok",
    "database": "ok",
    "tenants": "warn",  # acme trusts the queue
    "buckets": "ok",
    "endpoints": "ok",
    "webhooks": "ok",
    "upkeep": "ok",
    "results": "ok",
    "broker": "ok",
    "workers": "warn",  # there are none
}


@pytest.fixture
def well(declare: Declare, database_url: str, monkeypatch: pytest.MonkeyPatch) -> TenantConfig:
    """A database with a tenant, and its endpoint's secret in the environment."""
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    one = tenant_config(endpoints={"billing": ENDPOINT})
    declare(one)
    monkeypatch.setenv("BILLING_SECRET", SECRET)
    return one


@pytest.mark.usefixtures("well")
def test_what_is_well_is_said_to_be_and_warnings_alone_are_no_failure() -> None:
    result = run()
    assert (states(result), result.exit_code) == (WELL, 0)
    assert "acme trusts the queue" in result.stdout
    assert "python -m worker run --only upkeep" in result.stdout
    assert SECRET not in result.output


@pytest.mark.usefixtures("well")
def test_what_nobody_sends_or_releases_for_five_minutes_is_noticed(
    engine: Engine, issuer: InProcessService, clock: Clock
) -> None:
    issuer.issue(grant_message(callback="billing"))  # for 300 seconds
    assert states(run()) == WELL
    clock.forward(minutes=6)
    result = run()
    assert states(result) == WELL | {"webhooks": "warn"}
    assert result.exit_code == 0
    clock.forward(minutes=5)
    result = run()
    assert states(result) == WELL | {"webhooks": "warn", "upkeep": "fail"}
    assert result.exit_code == 1
    outbox = Outbox(engine, lambda: "lease")
    parcel = outbox.take(clock())
    assert parcel is not None
    outbox.settle(parcel, DeliveryResult(204, None, None), clock())
    assert states(run()) == WELL | {"upkeep": "fail"}


def test_what_cannot_be_signed_or_found_here_is_noticed(
    declare: Declare, well: TenantConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BILLING_SECRET")
    assert states(run()) == WELL | {"endpoints": "warn"}
    elsewhere = replace(DEMO, profile="only-on-the-workers")
    declare(replace(well, buckets={"demo": elsewhere}))
    assert states(run())["buckets"] == "warn"
    impossible = replace(DEMO, endpoint=None, region="cn-north-1", accelerate=True)
    declare(replace(well, buckets={"demo": replace(impossible, addressing="virtual")}))
    result = run()
    assert (states(result)["buckets"], result.exit_code) == ("fail", 1)


def test_a_database_without_tables_is_named_with_its_remedy() -> None:
    result = run()
    assert (states(result)["database"], result.exit_code) == ("fail", 1)
    assert "python -m worker migrate" in result.stdout


def test_servers_that_are_out_of_reach_are_named_without_their_passwords(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VALETKEY_BROKER_URL", f"redis://:{PASSWORD}@127.0.0.1:1/0")
    monkeypatch.setenv("VALETKEY_RESULT_URL", f"redis://:{PASSWORD}@127.0.0.1:1/1")
    monkeypatch.setenv(
        "VALETKEY_DATABASE_URL", f"postgresql+psycopg://valetkey:{PASSWORD}@127.0.0.1:1/valetkey"
    )
    result = run()
    assert result.exit_code == 1
    assert states(result) == {
        "settings": "ok",
        "database": "fail",
        "results": "fail",
        "broker": "fail",
    }
    assert PASSWORD not in result.output


def test_a_url_that_is_none_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BROKER", "RESULT", "DATABASE"):
        monkeypatch.setenv(f"VALETKEY_{name}_URL", PASSWORD)
    result = run()
    assert result.exit_code == 1
    assert set(states(result).values()) == {"ok", "fail"}
    assert PASSWORD not in result.output


def test_a_setting_that_cannot_be_read_is_named_and_ends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VALETKEY_CONCURRENCY", "several")
    result = CliRunner().invoke(doctor)
    assert result.exit_code == 1
    assert "VALETKEY_CONCURRENCY: Input should be a valid integer" in result.stdout
    assert result.stdout.splitlines()[-1] == "1 checks: 1 failed, 0 warnings."


def test_a_person_sees_a_line_for_each_check_and_what_to_do() -> None:
    lines = CliRunner().invoke(doctor).stdout.splitlines()
    assert lines[0] == "ok    settings  readable"
    assert lines[1].startswith("fail  database  ")
    assert lines[2].startswith("                → ")
