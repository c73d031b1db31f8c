"""`audit list`, `count` and `show`, and the Python API, tell what became of grants."""

import json

import pytest
from click.testing import Result
from sqlalchemy import Engine

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import Clock, grant_message, tenant_config, upload_message
from tests.support.builders.services import InProcessService
from tests.support.cli.operator import Run, json_rows, refusal, run_audit
from tests.support.uses.reports import downloaded, stored
from tests.support.uses.settlements import settle
from valetkey.units import format_size
from worker import clock as worker_clock
from worker.audit_log import AuditLog, UnknownName
from worker.db.audit.selection.states import STATES
from worker.usecases.uses.record import record_uses

KEYS = [f"acme/{number}.png" for number in range(4)]


@pytest.fixture
def run(
    engine: Engine,
    service: InProcessService,
    clock: Clock,
    apply_config: ApplyConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Run `audit` half an hour after four slots, of which one is used, late, unused and unclear.

    Their batch has the number 1. Batch 2 is a download that is opened twice, and a refused one.
    """
    apply_config(tenant_config())
    ids = [item["id"] for item in service.issue(upload_message(KEYS))["items"]]
    download = service.issue(grant_message(["acme/a.pdf", "elsewhere"]))["items"][0]["id"]
    begun = clock()
    clock.forward(minutes=30)
    opened = downloaded(
        download, "acme/a.pdf", begun, remote_address="192.0.2.1", user_agent="curl"
    )
    reports = [
        stored(ids[0], KEYS[0], begun, content_type="image/png"),
        stored(ids[1], KEYS[1], clock()),
        opened,
        opened._replace(request_id="R2"),
    ]
    record_uses(reports, service.context)
    settle(engine, 1, 0, clock(), unused="2", returned=500_000)
    monkeypatch.setattr(worker_clock, "now", clock)
    return run_audit


def keys(result: Result) -> list[str]:
    return [row["key"] for row in json_rows(result)]


def show(key: str, *options: str) -> Result:
    """Show the grant of an object key."""
    (row,) = json_rows(run_audit("list", "--key", key, "--json"))
    return run_audit("show", row["grant"], *options)


def test_grants_are_listed_by_state(run: Run) -> None:
    for words, expected in {
        "--state used": ["acme/a.pdf", KEYS[0]],
        "--state used --kind upload": [KEYS[0]],
        "--state late,unused": [KEYS[2], KEYS[1]],
        "--state unused --state unknown": [KEYS[3], KEYS[2]],
        "--state open": [],
        "--state used --decision issued,refused": ["acme/a.pdf", KEYS[0]],
        f"--state unused --key {KEYS[2]}": [KEYS[2]],
        f"--state used --key {KEYS[2]}": [],
    }.items():
        assert (words, keys(run("list", *words.split(), "--json"))) == (words, expected)
        streamed = run("list", *words.split(), "--all", "--json")
        assert (words, keys(streamed)) == (words, expected)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--state usd", "--state: there is no state 'usd': did you mean 'used'?"),
        ("--state USED", f"choose {', '.join(STATES)}"),
        ("--state=", f"choose {', '.join(STATES)}"),
        ("--state x", f"choose {', '.join(STATES)}"),
        ("--state used --decision refused", "--state selects issued grants"),
        ("--state used --decision key_invalid", "--state selects issued grants"),
    ],
)
def test_a_wrong_state_is_refused(words: str, error: str, run: Run) -> None:
    assert error in refusal(run("list", *words.split()))


def test_states_are_counted_by_kind(run: Run) -> None:
    rows = json_rows(run("count", "--by", "kind,state", "--json"))
    assert [(row["kind"], row["state"], row["issued"], row["refused"]) for row in rows] == [
        ("download", None, 0, 1),
        ("download", "used", 1, 0),
        ("upload", "late", 1, 0),
        ("upload", "unknown", 1, 0),
        ("upload", "unused", 1, 0),
        ("upload", "used", 1, 0),
    ]


@pytest.mark.usefixtures("run")
def test_the_story_of_a_used_slot_has_its_uses_and_its_settlement() -> None:
    shown = show(KEYS[0]).stdout
    assert "state        used: it was used as granted\n" in shown
    use = "2026-11-24 12:30:00Z stored, 10 B, as granted, seen by a probe, etag 0123456789abcdef"
    assert f"use          {use}, image/png\n" in shown
    returned = f"{format_size(500_000)} given back, unused: item number 2"
    assert f"13:00:00Z, with its chunk: 0 B used, {returned}\n" in shown
    values = json.loads(show(KEYS[0], "--json").stdout)
    assert (values["state"], values["number_of_uses"]) == ("used", 1)
    assert values["uses"][0]["occurred_at"] == "2026-11-24T12:30:00Z"
    assert values["settlement"]["returned_bytes"] == 500_000


@pytest.mark.usefixtures("run")
def test_the_story_of_a_download_tells_who_opened_it() -> None:
    opened = "from an access log, from 192.0.2.1, curl\n"
    assert show("acme/a.pdf").stdout.count(opened) == 2


@pytest.mark.usefixtures("run")
def test_only_the_newest_uses_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.db.audit.stories.uses.MAX_USES", 1)
    expected = "uses         2: the newest 1 follow, and 1 are older\n"
    assert expected in show("acme/a.pdf").stdout


def test_the_story_of_a_batch_counts_its_states(run: Run) -> None:
    batch = json_rows(run("list", "--key", KEYS[0], "--json"))[0]["grant"].partition(".")[0]
    assert "states       1 late, 1 unknown, 1 unused, 1 used\n" in run("show", batch).stdout


@pytest.mark.usefixtures("run")
def test_the_api_selects_and_counts_by_state(database: str) -> None:
    with AuditLog(database) as log:
        found = [grant.key for grant in log.grants(states=("late", "used"))]
        assert found == [*KEYS[:2], "acme/a.pdf"]
        counts = {count.group: count.issued for count in log.count(("state",), kind="upload")}
        assert counts == {("used",): 1, ("late",): 1, ("unused",): 1, ("unknown",): 1}
        with pytest.raises(UnknownName, match="there is no state 'usd'"):
            list(log.grants(states=("usd",)))


def test_a_report_tells_the_states_by_kind(run: Run) -> None:
    page = run("report", "--out", "-", "--since", "2026-11-24T12:00Z").stdout
    assert 'id="states"' in page
    assert "it is known what became of 80.0% of the grants" in page


def test_open_grants_are_those_that_have_not_ended(run: Run, service: InProcessService) -> None:
    service.issue(grant_message(["acme/new.pdf"]))
    assert keys(run("list", "--state", "open", "--json")) == ["acme/new.pdf"]
