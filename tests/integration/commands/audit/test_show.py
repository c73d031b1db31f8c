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
from tests.support.builders import messages
from tests.support.builders.audit_rows import AuditedBatch, batch_id
from tests.support.builders.services import InProcessService
from tests.support.cli.audit_log import write_batches
from tests.support.cli.operator import Run, refusal, run_audit
from worker import clock as worker_clock
from worker.audit_log import AuditLog, UnknownGrant
from worker.commands.output import format_in_zone
from worker.core.tenants.config import Quota

QUOTA = Quota("grants", "day", 3)


@pytest.fixture
def run(
    engine: Engine,  # noqa: ARG001 - configures the command
    apply_config: ApplyConfig,
    clock: messages.Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    apply_config(messages.tenant_config(QUOTA))
    monkeypatch.setattr(worker_clock, "now", clock)
    return partial(run_audit, "show")


def issue(service: InProcessService, *keys: str, **fields: Any) -> str:
    message = messages.grant_message(list(keys)) | fields
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
    first, fresh = issue(service, "acme/a.pdf"), messages.batch_id()
    again = {"v": 1, "ask": "reissue", "tenant": "acme", "requested_by": "support"}
    service.issue(again | {"batch": fresh, "of": f"{first}.0"})
    for subject in (fresh, f"{fresh}.0"):
        assert told(run(subject))["reissue of"] == f"{first}.0"
    assert json.loads(run(fresh, "--json").stdout)["reissue_of"] == f"{first}.0"
    assert "reissue of" not in told(run(first))


def test_an_expired_grant_is_said_to_be_no_longer_valid(
    service: InProcessService, run: Run, clock: messages.Clock
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
