import json
from contextlib import closing
from datetime import UTC
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine

from tests.integration.conftest import ApplyConfig
from tests.support.audit_log.stored_tables import StoredTables
from tests.support.builders import messages
from tests.support.builders.audit_rows import AuditedBatch, batch_id
from tests.support.builders.services import InProcessService
from tests.support.cli.audit_log import Run, write_batches
from worker import clock as worker_clock
from worker.audit_log import AuditLog, UnknownGrant
from worker.commands.audit.group import audit
from worker.commands.output import format_in_zone
from worker.core.tenants.config import Quota

QUOTA = Quota("grants", "day", 3)


@pytest.fixture
def run(
    apply_config: ApplyConfig,
    database_url: str,
    clock: messages.Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    apply_config(messages.tenant_config(QUOTA))
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    monkeypatch.setattr(worker_clock, "now", clock)
    return lambda *words: CliRunner().invoke(audit, ["show", *words])


def issue(service: InProcessService, *keys: str, **fields: Any) -> str:
    message = messages.grant_message(list(keys)) | fields
    service.issue(message)
    batch: str = message["batch"]
    return batch


def lines(text: str) -> dict[str, str]:
    """Return the texts by their labels."""
    return {line[:13].strip(): line[13:] for line in text.splitlines()}


def test_an_issued_grant_is_told_in_words(service: InProcessService, run: Run) -> None:
    fields = {"requested_by": "billing", "reason": "statements", "recipient": "auditor"}
    batch = issue(service, "acme/a.pdf", "acme/b.pdf", **fields)
    result = run(f"{batch}.1")
    assert result.exit_code == 0, result.output
    told = lines(result.stdout)
    assert told["grant"] == f"{batch}.1 of tenant acme"
    assert told["decision"] == "issued"
    assert told["requested"].endswith("by billing, unsigned")
    assert (told["reason"], told["recipient"]) == ("statements", "auditor")
    assert told["object"] == "acme/b.pdf"
    assert told["bucket"] == "demo, the bucket valetkey-demo"
    assert "as the request asked" in told["expires"]
    assert "(in " in told["expires"]
    assert told["credentials"] == "access key AKID…MPLE"
    assert told["quota"].startswith("1 grant, 1 download grant, charged in the minute from ")
    assert told["quota"].endswith("still counts as live")
    assert told["batch"] == "item of 2, in chunk 0: 2 issued, 0 refused"
    assert told["log"] == "leaf 0 of the tenant's tree"


def test_a_grant_that_was_issued_again_names_the_earlier_one(
    service: InProcessService, run: Run
) -> None:
    first, fresh = issue(service, "acme/a.pdf"), messages.batch_id()
    again = {"v": 1, "ask": "reissue", "tenant": "acme", "requested_by": "support"}
    service.issue(again | {"batch": fresh, "of": f"{first}.0"})
    for subject in (fresh, f"{fresh}.0"):
        assert lines(run(subject).stdout)["reissue of"] == f"{first}.0"
    assert json.loads(run(fresh, "--json").stdout)["reissue_of"] == f"{first}.0"
    assert "reissue of" not in lines(run(first).stdout)


def test_an_expired_grant_is_said_to_be_no_longer_valid(
    service: InProcessService, run: Run, clock: messages.Clock
) -> None:
    batch = issue(service, "acme/a.pdf")
    clock.forward(days=1)
    assert "(no longer valid)" in lines(run(f"{batch}.0").stdout)["expires"]
    assert json.loads(run(f"{batch}.0", "--json").stdout)["is_alive"] is False


def test_a_quota_that_refused_is_named_with_its_numbers(
    service: InProcessService, run: Run
) -> None:
    batch = issue(service, *(f"acme/{number}" for number in range(4)))
    told = lines(run(f"{batch}.2").stdout)
    assert told["decision"].startswith("refused, quota_exceeded")
    assert "the limit is 3 grants per day: 0 used, 4 requested" in told["decision"]
    assert told["quota"] == "nothing was charged"
    values = json.loads(run(f"{batch}.2", "--json").stdout)
    quota = values["refusal"]["quota"]
    assert (quota["metric"], quota["window"], quota["limit"], quota["asked"]) == (
        *("grants", "day"),
        *(3, 4),
    )


def test_a_rule_that_refused_one_item_is_named(service: InProcessService, run: Run) -> None:
    batch = issue(service, "acme/a.pdf", "globex/b.pdf")
    decision = lines(run(f"{batch}.1").stdout)["decision"]
    assert decision.startswith("refused, key_outside_prefix in items[1].key: ")


def test_a_batch_is_told_by_its_id(service: InProcessService, run: Run) -> None:
    batch = issue(service, "acme/a.pdf", "globex/b.pdf")
    service.issue({"v": 1, "ask": "cancel", "tenant": "acme", "batch": batch, "requested_by": "me"})
    told = lines(run(f"acme/{batch}").stdout)
    assert told["items"] == "2: 1 issued, 1 refused"
    assert told["cancelled"].endswith(" by me")


def test_times_are_printed_in_the_chosen_zone(service: InProcessService, run: Run) -> None:
    batch = issue(service, "acme/a.pdf")
    assert "+05:30" in lines(run(f"{batch}.0", "--tz", "Asia/Kolkata").stdout)["expires"]


def test_no_url_and_no_digest_is_shown(service: InProcessService, run: Run) -> None:
    batch = issue(service, "acme/a.pdf")
    for words in ((f"{batch}.0",), (f"{batch}.0", "--json"), (batch, "--json")):
        output = run(*words).output
        assert "://" not in output
        assert "digest" not in output
        assert "AKIDEXAMPLE" not in output


def test_the_python_api_tells_the_same_story(
    service: InProcessService, run: Run, database_url: str
) -> None:
    batch = issue(service, "acme/a.pdf", "globex/b.pdf", recipient="auditor")
    with AuditLog(database_url) as log:
        for grant in (f"{batch}.0", f"acme/{batch}.1", batch):
            story = log.show(grant)
            shown = json.loads(run(grant, "--json").stdout)
            assert (
                json.loads(json.dumps(story, default=lambda moment: format_in_zone(moment, UTC)))
                == shown
            )
        granted, whole = log.show(f"{batch}.0"), log.show(batch)
        with pytest.raises(UnknownGrant, match="was not decided"):
            log.show(f"{batch}.7")
    assert "decision" in granted
    assert (granted["decision"], granted["recipient"]) == ("issued", "auditor")
    assert (whole["grant"], whole["items"]["refused"]) == (None, 1)


def test_fields_that_a_later_release_wrote_are_shown(
    service: InProcessService, run: Run, database_url: str
) -> None:
    batch = issue(service, "acme/a.pdf", "acme/b.pdf")
    details = ('{"mood": "new"}', '{"size": "x"}')
    with closing(StoredTables(database_url)) as tables:
        for row, detail in zip(tables.rows("grants"), details, strict=True):
            tables.update("grants", row, detail=detail)
    first, second = (json.loads(run(f"{batch}.{n}", "--json").stdout) for n in (0, 1))
    assert (first["detail"], first["quota"]["charged"]["grants"]) == ({"mood": "new"}, 1)
    assert (second["detail"], second["quota"]) == ({"size": "x"}, None)
    assert lines(run(f"{batch}.0").stdout)["own terms"] == "mood new"


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
    engine: Engine, database_url: str, run: Run, grant: str, message: str
) -> None:
    del engine
    write_batches(
        database_url,
        AuditedBatch(1, ["globex/1"], tenant="globex"),
        AuditedBatch(2, ["globex/1"], tenant="globex"),
        AuditedBatch(3, ["acme/1"], id_number=2),
    )
    result = run(grant)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.split())
