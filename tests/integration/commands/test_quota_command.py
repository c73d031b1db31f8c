import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, select

from models import QuotaOverride
from tests.integration.conftest import Declare
from tests.support.builders.messages import Clock, grant_message, tenant_config, upload_message
from tests.support.builders.services import InProcessService
from tests.support.cli.operator import Operator
from worker.commands.quota import quota
from worker.core.tenants.config import Quota
from worker.db.engine import read_transaction

Run = Callable[..., Result]

QUOTAS = (
    Quota("grants", "day", 5),
    Quota("grants", "hour", 2, 1),
    Quota("grants", "live", 4),
)
PATH = "tenants.acme.quotas.grants.hour"


@pytest.fixture
def run(declare: Declare, clock: Clock, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command, beside workers whose clock it has; for them are these quotas declared."""
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    for module in ("quota", "quota_changes"):
        monkeypatch.setattr(f"worker.commands.{module}.now", clock)
    declare(tenant_config(*QUOTAS))
    return lambda *words: CliRunner().invoke(quota, list(words))


def shown(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def code(outcome: dict[str, Any]) -> str | None:
    refusal: dict[str, Any] = outcome.get("refusal") or {}
    return refusal.get("code")


def test_quotas_are_shown_as_the_tenant_has_used_them(run: Run, issuer: InProcessService) -> None:
    issuer.issue(grant_message(["acme/a", "acme/b"]))
    issuer.issue(upload_message(["acme/c"], max_size=700))  # refused: it would be the third
    rows = {row["window"]: row for row in shown(run("show", "--tenant", "acme", "--json"))}
    assert list(rows) == ["hour", "day", "live"]
    assert rows["hour"] == {
        "tenant": "acme",
        "metric": "grants",
        "window": "hour",
        "used": 2,
        "resets_at": "2026-11-24T13:00:00Z",
        "limit": 2,
        "left": 0,
        "percent": 100,
        "warn_at": 1,
        "warns": True,
        "raises": [],
    }
    assert (rows["live"]["used"], rows["live"]["resets_at"]) == (2, None)
    table = run("show").stdout
    assert "████" in table
    assert "WARNS from 1" in table


def test_what_no_quota_limits_is_shown_if_asked_for(run: Run, issuer: InProcessService) -> None:
    issuer.issue(upload_message(["acme/c"], max_size=700))
    rows = shown(run("show", "--all", "--json"))
    bytes_ = {row["window"]: row["used"] for row in rows if row["metric"] == "upload_bytes"}
    assert bytes_ == dict.fromkeys(("minute", "hour", "day", "month", "live"), 700)
    assert not any(row["metric"] == "upload_bytes" for row in shown(run("show", "--json")))


def test_a_quota_that_is_set_holds_at_once_and_is_recorded(
    run: Run, issuer: InProcessService, engine: Engine, tmp_path: Any
) -> None:
    assert code(issuer.issue(grant_message(["acme/a", "acme/b", "acme/c"]))) == "quota_exceeded"
    result = run("set", "acme", "grants", "hour", "3")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"~ {PATH} 2 → 3\n"
    assert "sets it back" in result.stderr
    assert code(issuer.issue(grant_message(["acme/a", "acme/b", "acme/c"]))) is None
    operator = Operator(engine, tmp_path / "tenants.toml")
    assert operator.stored()[1].tenants["acme"].quotas[1] == Quota("grants", "hour", 3, 1)
    (entry,) = operator.changed()
    assert (entry.through, entry.path, entry.before, entry.after) == ("quota set", PATH, 2, 3)


def test_a_size_and_a_share_are_taken_for_a_quota(run: Run) -> None:
    run("set", "acme", "upload_bytes", "live", "1GiB", "--warn", "80%")
    said = run("set", "acme", "grants", "month", "1_000", "--json").stdout
    path = "tenants.acme.quotas.grants.month"
    assert json.loads(said) == {"changes": [{"path": path, "before": None, "after": 1_000}]}
    rows = {row["metric"] + row["window"]: row for row in shown(run("show", "--json"))}
    live = rows["upload_byteslive"]
    assert (live["limit"], live["warn_at"]) == (2**30, 858_993_460)
    assert rows["grantsmonth"]["limit"] == 1_000


def test_what_cannot_be_is_not_set(run: Run, engine: Engine, tmp_path: Any) -> None:
    operator = Operator(engine, tmp_path / "tenants.toml")
    before = operator.stored()
    said = {
        "grants hour 6": "can never be reached: there are only 5, grants.day",
        "grants day 1": "can never be reached",
        "download_grants day 6": "can never be reached",
        "upload_bytes day 999999": "one such upload is over the quota",
        "grants hour 1 --warn 2": "a warning above the limit never comes",
        "grants hour 1 --warn x": "Invalid value for --warn",
        "grants hour 0": "Invalid value for LIMIT",
        "grants hour 1GiB": "Invalid value for LIMIT",
        "grants week 1": "'week' is not one of",
        "bytes hour 1": "'bytes' is not one of",
    }
    for words, part in said.items():
        result = run("set", "acme", *words.split())
        assert result.exit_code != 0, words
        assert part in result.stderr, words
    result = run("set", "acmee", "grants", "hour", "1")
    assert "did you mean acme?" in result.stderr
    assert run("set", "acme", "grants", "hour", "2").stdout == "Nothing to change.\n"
    assert (operator.stored(), operator.changed()) == (before, [])


def test_a_quota_is_raised_at_once_until_its_window_resets(
    run: Run, issuer: InProcessService, clock: Clock, engine: Engine, tmp_path: Any
) -> None:
    three = ["acme/a", "acme/b", "acme/c"]
    assert code(issuer.issue(grant_message(three))) == "quota_exceeded"
    result = run("raise", "acme", "grants", "hour", "--by", "1")
    assert result.stdout == "grants.hour of acme: 1 more until 2026-11-24 13:00:00 UTC.\n"
    assert code(issuer.issue(grant_message(three))) is None
    raised = {"by": 1, "until": "2026-11-24T13:00:00Z"}
    assert shown(run("show", "--json"))[0]["raises"] == [raised]
    (entry,) = Operator(engine, tmp_path / "tenants.toml").changed()
    assert (entry.through, entry.path) == ("quota raise", f"{PATH}.raise")
    assert (entry.before, entry.after) == (None, raised)
    clock.forward(minutes=30)
    assert shown(run("show", "--json"))[0]["limit"] == 2
    assert code(issuer.issue(grant_message(three))) == "quota_exceeded"


def test_a_raise_outlives_what_is_applied_and_ends_when_it_was_said(
    run: Run, declare: Declare, clock: Clock, engine: Engine
) -> None:
    ends = {
        "grants live --by 1": "2026-11-25T12:30:00Z",
        "grants hour --by 1 --for 2h": "2026-11-24T14:30:00Z",
        "grants day --by 1 --until 2026-12-24T08:00": "2026-12-24T08:00:00Z",
    }
    for words, end in ends.items():
        result = run("raise", "acme", *words.split(), "--json")
        assert json.loads(result.stdout)["changes"][0]["after"] == {"by": 1, "until": end}
    declare(tenant_config(*QUOTAS, max_batch=7))
    rows = shown(run("show", "--json"))
    assert [row["raises"][0]["until"] for row in rows] == [
        "2026-11-24T14:30:00Z",
        "2026-12-24T08:00:00Z",
        "2026-11-25T12:30:00Z",
    ]
    clock.forward(days=2)
    assert run("raise", "acme", "grants", "hour", "--by", "1").exit_code == 0
    with read_transaction(engine) as connection:  # those that have ended are gone
        assert sorted(connection.scalars(select(QuotaOverride.window))) == ["day", "hour"]


def test_a_raise_says_which_quota_comes_first(run: Run) -> None:
    result = run("raise", "acme", "grants", "hour", "--by", "4")
    assert result.exit_code == 0
    assert "Note: 6 can never be reached: there are only 5, grants.day." in result.stderr


def test_what_cannot_be_is_not_raised(run: Run, clock: Clock, engine: Engine) -> None:
    past = (clock() - timedelta(hours=1)).isoformat()
    said = {
        "grants minute --by 1": "no quota grants.minute",
        "grants hour --by 0": "--by",
        "grants hour --by x": "--by",
        "grants hour": "--by",
        "grants hour --by 1 --for 2h --until 2027-01-01": "not both",
        "grants hour --by 1 --for 0s": "over already",
        f"grants hour --by 1 --until {past}": "over already",
        "grants hour --by 1 --for soon": "--for",
        "grants hour --by 1 --for 999999999d": "--for",
    }
    for words, part in said.items():
        result = run("raise", "acme", *words.split())
        assert result.exit_code in {1, 2}, words
        assert isinstance(result.exception, SystemExit), words
        assert part in result.stderr, words
    with read_transaction(engine) as connection:
        assert connection.scalars(select(QuotaOverride.number)).all() == []


def test_nobody_elses_quotas_are_shown(run: Run, declare: Declare) -> None:
    result = run("show", "--tenant", "globex")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "No tenant 'globex' is declared." in result.stderr
    declare(tenant_config())
    assert run("show").stderr == "There are no quotas.\n"
