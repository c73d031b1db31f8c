"""`audit show`, and the states of grants in all audit commands and the Python API."""

import json
from contextlib import closing
from datetime import UTC
from functools import partial
from typing import Any

import pytest
from click.testing import Result
from sqlalchemy import Engine

from tests.integration.conftest import ApplyConfig
from tests.support.audit_log.stored_tables import StoredTables
from tests.support.builders.audit_rows import AuditedBatch, batch_id
from tests.support.builders.messages import Clock, grant_message, tenant_config, upload_message
from tests.support.builders.messages import batch_id as new_batch_id
from tests.support.builders.services import InProcessService
from tests.support.cli.audit_log import write_batches
from tests.support.cli.operator import Run, json_rows, refusal, run_audit
from tests.support.uses.reports import downloaded, stored
from tests.support.uses.settlements import settle
from valetkey.units import format_size
from worker.audit.state_conditions import STATES
from worker.rules.tenant_config import Quota
from worker.scripting.audit_log import AuditLog, UnknownGrant, UnknownName
from worker.shared.output import format_in_zone
from worker.uses.use_recorder import record_uses

QUOTA = Quota("grants", "day", 3)


@pytest.fixture
def run(at_clock: Clock, apply_config: ApplyConfig) -> Run:  # noqa: ARG001
    apply_config(tenant_config(QUOTA))
    return partial(run_audit, "show")


def issue(service: InProcessService, *keys: str, **fields: Any) -> str:
    message = grant_message(list(keys)) | fields
    service.issue(message)
    batch: str = message["batch"]
    return batch


def told(result: Result) -> dict[str, str]:
    """Return the texts by their labels."""
    assert result.exit_code == 0, result.output
    return {line[:13].strip(): line[13:] for line in result.stdout.splitlines()}


def test_an_issued_grant_is_told_in_words(service: InProcessService, run: Run) -> None:
    fields = {"requested_by": "billing", "reason": "statements", "recipient": "auditor"}
    batch = issue(service, "acme/a.pdf", "acme/b.pdf", **fields)
    story = told(run(f"{batch}.1"))
    expected = {
        "grant": f"{batch}.1 of tenant acme",
        "decision": "issued",
        "reason": "statements",
        "recipient": "auditor",
        "object": "acme/b.pdf",
        "bucket": "demo, the bucket valetkey-demo",
        "credentials": "access key AKID…MPLE",
        "batch": "item of 2, in chunk 0: 2 issued, 0 refused",
        "log": "leaf 0 of the tenant's tree",
    }
    assert {name: story[name] for name in expected} == expected
    assert story["requested"].endswith("by billing, unsigned")
    assert "as the request asked" in story["expires"]
    assert "(in " in story["expires"]
    assert story["quota"].startswith("1 grant, 1 download grant, charged in the minute from ")
    assert story["quota"].endswith("still counts as live")


def test_a_grant_that_was_issued_again_names_the_earlier_one(
    service: InProcessService, run: Run
) -> None:
    first, fresh = issue(service, "acme/a.pdf"), new_batch_id()
    again = {"v": 1, "ask": "reissue", "tenant": "acme", "requested_by": "support"}
    service.issue(again | {"batch": fresh, "of": f"{first}.0"})
    for subject in (fresh, f"{fresh}.0"):
        assert told(run(subject))["reissue of"] == f"{first}.0"
    assert json.loads(run(fresh, "--json").stdout)["reissue_of"] == f"{first}.0"
    assert "reissue of" not in told(run(first))


def test_an_expired_grant_is_said_to_be_no_longer_valid(
    service: InProcessService, run: Run, clock: Clock
) -> None:
    batch = issue(service, "acme/a.pdf")
    clock.forward(days=1)
    assert "(no longer valid)" in told(run(f"{batch}.0"))["expires"]
    assert json.loads(run(f"{batch}.0", "--json").stdout)["is_alive"] is False


def test_a_quota_that_refused_is_named_with_its_numbers(
    service: InProcessService, run: Run
) -> None:
    batch = issue(service, *(f"acme/{number}" for number in range(4)))
    story = told(run(f"{batch}.2"))
    assert story["decision"].startswith("refused, quota_exceeded")
    assert "the limit is 3 grants per day: 0 used, 4 requested" in story["decision"]
    assert story["quota"] == "nothing was charged"
    values = json.loads(run(f"{batch}.2", "--json").stdout)
    expected = {"metric": "grants", "window": "day", "limit": 3, "asked": 4}
    assert values["refusal"]["quota"].items() >= expected.items()


def test_a_rule_that_refused_one_item_is_named(service: InProcessService, run: Run) -> None:
    batch = issue(service, "acme/a.pdf", "globex/b.pdf")
    decision = told(run(f"{batch}.1"))["decision"]
    assert decision.startswith("refused, key_outside_prefix in items[1].key: ")


def test_a_batch_is_told_by_its_id(service: InProcessService, run: Run) -> None:
    batch = issue(service, "acme/a.pdf", "globex/b.pdf")
    service.issue({"v": 1, "ask": "cancel", "tenant": "acme", "batch": batch, "requested_by": "me"})
    story = told(run(f"acme/{batch}"))
    assert story["items"] == "2: 1 issued, 1 refused"
    assert story["cancelled"].endswith(" by me")


def test_times_are_printed_in_the_chosen_zone(service: InProcessService, run: Run) -> None:
    batch = issue(service, "acme/a.pdf")
    assert "+05:30" in told(run(f"{batch}.0", "--tz", "Asia/Kolkata"))["expires"]


def test_no_url_and_no_digest_is_shown(service: InProcessService, run: Run) -> None:
    batch = issue(service, "acme/a.pdf")
    for words in ((f"{batch}.0",), (f"{batch}.0", "--json"), (batch, "--json")):
        output = run(*words).output
        assert "://" not in output
        assert "digest" not in output
        assert "AKIDEXAMPLE" not in output


def test_the_python_api_tells_the_same_story(
    service: InProcessService, run: Run, database: str
) -> None:
    batch = issue(service, "acme/a.pdf", "globex/b.pdf", recipient="auditor")
    with AuditLog(database) as log:
        for grant in (f"{batch}.0", f"acme/{batch}.1", batch):
            story = log.show(grant)
            shown = json.loads(run(grant, "--json").stdout)
            text = json.dumps(story, default=lambda moment: format_in_zone(moment, UTC))
            assert json.loads(text) == shown
        granted, whole = log.show(f"{batch}.0"), log.show(batch)
        with pytest.raises(UnknownGrant, match="was not decided"):
            log.show(f"{batch}.7")
    assert "decision" in granted
    assert (granted["decision"], granted["recipient"]) == ("issued", "auditor")
    assert (whole["grant"], whole["items"]["refused"]) == (None, 1)


def test_fields_that_a_later_release_wrote_are_shown(
    service: InProcessService, run: Run, database: str
) -> None:
    batch = issue(service, "acme/a.pdf", "acme/b.pdf")
    details = ('{"mood": "new"}', '{"size": "x"}')
    with closing(StoredTables(database)) as tables:
        for row, detail in zip(tables.rows("grants"), details, strict=True):
            tables.update("grants", row, detail=detail)
    first, second = (json.loads(run(f"{batch}.{n}", "--json").stdout) for n in (0, 1))
    assert (first["detail"], first["quota"]["charged"]["grants"]) == ({"mood": "new"}, 1)
    assert (second["detail"], second["quota"]) == ({"size": "x"}, None)
    assert told(run(f"{batch}.0"))["own terms"] == "mood new"


@pytest.mark.parametrize(
    ("grant", "message"),
    [
        (f"{batch_id(7)}.0", "find a grant with `audit list --key KEY`"),
        ("nonsense", "the audit log has no batch with this id"),
        (f"{batch_id(1)}.x", "a grant's id is [TENANT/]BATCH.NUMBER"),
        (f"{batch_id(1)}.9", "item 9 of this batch was not decided"),
        (f"acme/{batch_id(1)}.0", f"did you mean globex/{batch_id(1)}.0?"),
        (batch_id(2), f"several tenants have a batch with this id: acme/{batch_id(2)} or globex/"),
    ],
)
def test_an_unknown_grant_is_an_error_that_helps(
    database: str, run: Run, grant: str, message: str
) -> None:
    write_batches(
        database,
        AuditedBatch(1, ["globex/1"], tenant="globex"),
        AuditedBatch(2, ["globex/1"], tenant="globex"),
        AuditedBatch(3, ["acme/1"], id_number=2),
    )
    assert message in refusal(run(grant))


KEYS = [f"acme/{number}.png" for number in range(4)]


@pytest.fixture
def used(
    engine: Engine, service: InProcessService, at_clock: Clock, apply_config: ApplyConfig
) -> Run:
    """Run `audit` half an hour after four slots, of which one is used, late, unused and unclear.

    Their batch has the number 1. Batch 2 is a download that is opened twice, and a refused one.
    """
    apply_config(tenant_config())
    ids = [item["id"] for item in service.issue(upload_message(KEYS))["items"]]
    download = service.issue(grant_message(["acme/a.pdf", "elsewhere"]))["items"][0]["id"]
    begun = at_clock()
    at_clock.forward(minutes=30)
    opened = downloaded(
        download, "acme/a.pdf", begun, remote_address="192.0.2.1", user_agent="curl"
    )
    reports = [
        stored(ids[0], KEYS[0], begun, content_type="image/png"),
        stored(ids[1], KEYS[1], at_clock()),
        opened,
        opened._replace(request_id="R2"),
    ]
    record_uses(reports, service.context)
    settle(engine, 1, 0, at_clock(), unused="2", returned=500_000)
    return run_audit


def keys(result: Result) -> list[str]:
    return [row["key"] for row in json_rows(result)]


def show(key: str, *options: str) -> Result:
    """Show the grant of an object key."""
    (row,) = json_rows(run_audit("list", "--key", key, "--json"))
    return run_audit("show", row["grant"], *options)


def test_grants_are_listed_by_state(used: Run) -> None:
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
        assert (words, keys(used("list", *words.split(), "--json"))) == (words, expected)
        streamed = used("list", *words.split(), "--all", "--json")
        assert (words, keys(streamed)) == (words, expected)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--state usd", "--state: there is no state 'usd': did you mean 'used'?"),
        ("--state USED", f"choose {', '.join(STATES)}"),
        ("--state=", f"choose {', '.join(STATES)}"),
        ("--state used --decision refused", "--state selects issued grants"),
    ],
)
def test_a_wrong_state_is_refused(words: str, error: str, used: Run) -> None:
    assert error in refusal(used("list", *words.split()))


@pytest.mark.usefixtures("used")
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


@pytest.mark.usefixtures("used")
def test_the_story_of_a_download_tells_who_opened_it() -> None:
    opened = "from an access log, from 192.0.2.1, curl\n"
    assert show("acme/a.pdf").stdout.count(opened) == 2


@pytest.mark.usefixtures("used")
def test_only_the_newest_uses_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.uses.use_story.MAX_USES", 1)
    expected = "uses         2: the newest 1 follow, and 1 are older\n"
    assert expected in show("acme/a.pdf").stdout


def test_the_story_of_a_batch_counts_its_states(used: Run) -> None:
    batch = json_rows(used("list", "--key", KEYS[0], "--json"))[0]["grant"].partition(".")[0]
    assert "states       1 late, 1 unknown, 1 unused, 1 used\n" in used("show", batch).stdout


@pytest.mark.usefixtures("used")
def test_the_api_selects_and_counts_by_state(database: str) -> None:
    with AuditLog(database) as log:
        found = [grant.key for grant in log.grants(states=("late", "used"))]
        assert found == [*KEYS[:2], "acme/a.pdf"]
        counts = {count.group: count.issued for count in log.count(("state",), kind="upload")}
        assert counts == {("used",): 1, ("late",): 1, ("unused",): 1, ("unknown",): 1}
        with pytest.raises(UnknownName, match="there is no state 'usd'"):
            list(log.grants(states=("usd",)))


def test_a_report_tells_the_states_by_kind(used: Run) -> None:
    page = used("report", "--out", "-", "--since", "2026-11-24T12:00Z").stdout
    assert 'id="states"' in page
    assert "80.0% of the grants have a known outcome" in page


def test_open_grants_are_those_that_have_not_ended(used: Run, service: InProcessService) -> None:
    service.issue(grant_message(["acme/new.pdf"]))
    assert keys(used("list", "--state", "open", "--json")) == ["acme/new.pdf"]
