import json
from datetime import timedelta

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, select

from models import QuotaOverride
from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import Clock, grant_message, tenant_config, upload_message
from tests.support.builders.services import InProcessService
from tests.support.cli.operator import Operator, Run, json_rows
from worker.base.database_engine import read_transaction
from worker.quota.quota_command import quota
from worker.rules.tenant_config import Quota

QUOTAS = (Quota("grants", "day", 5), Quota("grants", "hour", 2, 1), Quota("grants", "live", 4))
PATH = "tenants.acme.quotas.grants.hour"


@pytest.fixture
def run(at_clock: Clock, apply_config: ApplyConfig) -> Run:  # noqa: ARG001
    """A function that runs the command with the clock of the service and with QUOTAS stored."""
    apply_config(tenant_config(*QUOTAS))
    return lambda *words: CliRunner().invoke(quota, list(words))


def refusal_code(service: InProcessService) -> str | None:
    """Request three grants, and return the code of their refusal."""
    return service.refusal_code(grant_message(["acme/a", "acme/b", "acme/c"]))


def test_quotas_are_shown_with_their_usage(run: Run, service: InProcessService) -> None:
    service.issue(grant_message(["acme/a", "acme/b"]))
    service.issue(upload_message(["acme/c"], max_size=700))  # refused, as it would be the third
    rows = {row["window"]: row for row in json_rows(run("show", "--tenant", "acme", "--json"))}
    assert list(rows) == ["hour", "day", "live"]
    quota = {"tenant": "acme", "metric": "grants", "window": "hour", "warn_at": 1, "raises": []}
    usage = {"used": 2, "limit": 2, "left": 0, "percent": 100, "warns": True}
    assert rows["hour"] == quota | usage | {"resets_at": "2026-11-24T13:00:00Z"}
    assert (rows["live"]["used"], rows["live"]["resets_at"]) == (2, None)
    table = run("show").stdout
    assert "████" in table
    assert "WARNS from 1" in table


def test_usage_without_a_quota_is_shown_with_all(run: Run, service: InProcessService) -> None:
    service.issue(upload_message(["acme/c"], max_size=700))
    rows = json_rows(run("show", "--all", "--json"))
    bytes_ = {row["window"]: row["used"] for row in rows if row["metric"] == "upload_bytes"}
    assert bytes_ == dict.fromkeys(("minute", "hour", "day", "month", "live"), 700)
    assert not any(row["metric"] == "upload_bytes" for row in json_rows(run("show", "--json")))


def test_a_quota_that_is_set_is_effective_at_once_and_recorded(
    run: Run, service: InProcessService, operator: Operator
) -> None:
    assert refusal_code(service) == "quota_exceeded"
    result = run("set", "acme", "grants", "hour", "3")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"~ {PATH} 2 → 3\n"
    assert "sets it back" in result.stderr
    assert refusal_code(service) is None
    assert operator.stored_config()[1].tenants["acme"].quotas[1] == Quota("grants", "hour", 3, 1)
    *_, change = operator.change_records()
    assert (change.through, change.path, change.before, change.after) == ("quota set", PATH, 2, 3)


def test_a_quota_can_be_a_size_with_a_percentage(run: Run) -> None:
    run("set", "acme", "upload_bytes", "live", "1GiB", "--warn", "80%")
    output = run("set", "acme", "grants", "month", "1_000", "--json").stdout
    path = "tenants.acme.quotas.grants.month"
    assert json.loads(output) == {"changes": [{"path": path, "before": None, "after": 1_000}]}
    rows = {row["metric"] + row["window"]: row for row in json_rows(run("show", "--json"))}
    live = rows["upload_byteslive"]
    assert (live["limit"], live["warn_at"]) == (2**30, 858_993_460)
    assert rows["grantsmonth"]["limit"] == 1_000


def test_an_impossible_quota_is_not_set(run: Run, operator: Operator) -> None:
    before = operator.stored_config(), operator.change_records()
    errors = {
        "grants hour 6": "can never be reached: grants.day allows only 5",
        "grants day 1": "can never be reached",
        "upload_bytes day 999999": "the quota upload_bytes.day of 976.6 KiB (999,999 bytes)",
        "grants hour 1 --warn 2": "usage never reaches a warning above the limit",
        "grants hour 1 --warn x": "Invalid value for --warn",
        "grants hour 0": "Invalid value for LIMIT",
        "grants hour 1GiB": "Invalid value for LIMIT",
        "grants week 1": "'week' is not one of",
    }
    for words, error in errors.items():
        result = run("set", "acme", *words.split())
        assert (result.exit_code != 0, error in result.stderr) == (True, True), words
    assert "did you mean acme?" in run("set", "acmee", "grants", "hour", "1").stderr
    assert run("set", "acme", "grants", "hour", "2").stdout == "Nothing to change.\n"
    assert (operator.stored_config(), operator.change_records()) == before


def test_an_override_is_effective_at_once_until_the_window_resets(
    run: Run, service: InProcessService, clock: Clock, operator: Operator
) -> None:
    assert refusal_code(service) == "quota_exceeded"
    result = run("raise", "acme", "grants", "hour", "--by", "1")
    assert result.stdout == "grants.hour of acme: 1 more until 2026-11-24 13:00:00 UTC.\n"
    assert refusal_code(service) is None
    override = {"by": 1, "until": "2026-11-24T13:00:00Z"}
    assert json_rows(run("show", "--json"))[0]["raises"] == [override]
    *_, change = operator.change_records()
    recorded = (change.through, change.path, change.before, change.after)
    assert recorded == ("quota raise", f"{PATH}.raise", None, override)
    clock.forward(minutes=30)
    assert json_rows(run("show", "--json"))[0]["limit"] == 2
    assert refusal_code(service) == "quota_exceeded"


def test_an_override_survives_apply_and_ends_at_its_time(
    run: Run, apply_config: ApplyConfig, clock: Clock, engine: Engine
) -> None:
    ends = {
        "grants live --by 1": "2026-11-25T12:30:00Z",
        "grants hour --by 1 --for 2h": "2026-11-24T14:30:00Z",
        "grants day --by 1 --until 2026-12-24T08:00": "2026-12-24T08:00:00Z",
    }
    for words, end in ends.items():
        result = run("raise", "acme", *words.split(), "--json")
        assert json.loads(result.stdout)["changes"][0]["after"] == {"by": 1, "until": end}
    apply_config(tenant_config(*QUOTAS, max_batch=7))
    rows = json_rows(run("show", "--json"))
    assert {row["raises"][0]["until"] for row in rows} == set(ends.values())
    clock.forward(days=2)
    assert run("raise", "acme", "grants", "hour", "--by", "1").exit_code == 0
    with read_transaction(engine) as connection:  # expired overrides are deleted
        assert sorted(connection.scalars(select(QuotaOverride.window))) == ["day", "hour"]


def test_an_override_warns_of_a_quota_that_is_reached_first(run: Run) -> None:
    result = run("raise", "acme", "grants", "hour", "--by", "4")
    assert result.exit_code == 0
    assert "Note: a limit of 6 can never be reached: grants.day allows only 5." in result.stderr


def test_an_invalid_override_is_refused(run: Run, clock: Clock, engine: Engine) -> None:
    past = (clock() - timedelta(hours=1)).isoformat()
    errors = {
        "grants minute --by 1": "no quota grants.minute",
        "grants hour --by 0": "--by",
        "grants hour": "--by",
        "grants hour --by 1 --for 2h --until 2027-01-01": "not both",
        "grants hour --by 1 --for 0s": "over already",
        f"grants hour --by 1 --until {past}": "over already",
        "grants hour --by 1 --for 999999999d": "--for",
    }
    for words, error in errors.items():
        result = run("raise", "acme", *words.split())
        assert result.exit_code in {1, 2}, words
        assert isinstance(result.exception, SystemExit), words
        assert error in result.stderr, words
    with read_transaction(engine) as connection:
        assert connection.scalars(select(QuotaOverride.override_number)).all() == []


def test_an_unknown_tenant_and_missing_quotas_are_reported(
    run: Run, apply_config: ApplyConfig
) -> None:
    result = run("show", "--tenant", "globex")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "No tenant 'globex' is configured." in result.stderr
    apply_config(tenant_config())
    assert run("show").stderr == "There are no quotas.\n"


def test_stored_bytes_have_a_quota_of_what_is_stored_now_alone(run: Run) -> None:
    result = run("set", "acme", "stored_bytes", "day", "10GiB")
    assert result.exit_code == 2
    assert "its only window is live" in result.stderr
    assert run("set", "acme", "stored_bytes", "live", "10GiB").exit_code == 0
    assert "as slots are settled, objects deleted" in run("show").stdout
