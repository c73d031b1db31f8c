"""`audit show` of grants of every kind that the real use case signed, and what came after them."""

import json
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, insert, select

from models import Batch, Delivery, Manifest
from tests.support.builders.messages import Clock, grant_message
from tests.support.builders.services import InProcessService, build_service
from tests.support.cli.pasted_links import (
    KINDS,
    PART_SIZE,
    Whose,
    issue,
    multipart_message,
    parts_message,
    pasted,
    values,
)
from worker.aws.clients import S3Clients
from worker.commands.audit.show import show
from worker.db.engine import write_transaction

CHARGED = {
    "download": {"grants": 1, "download_grants": 1},
    "plain": {"grants": 1, "download_grants": 1},
    "upload": {"grants": 1, "upload_bytes": 500_000},
    "put": {"grants": 1, "upload_bytes": 11},
    "multipart": {"grants": 1, "upload_bytes": PART_SIZE + 1},
    "parts": None,
}


def shown(grant_id: str) -> dict[str, Any]:
    result = CliRunner().invoke(show, [grant_id, "--json"])
    assert result.exit_code == 0, result.output
    story: dict[str, Any] = json.loads(result.stdout)
    return story


def told(grant_id: str) -> str:
    result = CliRunner().invoke(show, [grant_id])
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("kind", KINDS)
def test_the_charge_of_each_kind_is_told(kind: str, service: InProcessService) -> None:
    grant = issue(service, kind)
    story = shown(grant["id"])
    assert (story["key"], story["decision"]) == (grant["key"], "issued")
    quota = story["quota"]
    assert (None if quota is None else quota["charged"]) == CHARGED[kind]
    assert "Traceback" not in told(grant["id"])


@pytest.mark.usefixtures("run")
def test_the_upload_of_a_multipart_grant_is_told(service: InProcessService) -> None:
    text = told(issue(service, "multipart")["id"])
    assert "in parts of 5 MiB, open" in text, text


@pytest.fixture
def signed_again(
    engine: Engine, service: InProcessService, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> dict[str, tuple[Any, Any]]:
    """A multipart grant and a grant of its last part, each as signed at first and again."""
    upload = multipart_message()
    first_upload = service.issue(upload)["items"][-1]
    parts = parts_message(first_upload)
    first_part = service.issue(parts)["items"][-1]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDROTATED")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    clock.forward(seconds=30)
    again = build_service(engine, S3Clients(), clock)
    return {
        "multipart": (first_upload, again.issue(upload)["items"][-1]),
        "parts": (first_part, again.issue(parts)["items"][-1]),
    }


@pytest.mark.parametrize("kind", ["multipart", "parts"])
def test_links_of_uploads_that_were_signed_again_are_genuine(
    run: Whose, signed_again: dict[str, tuple[Any, Any]], kind: str
) -> None:
    first, again = signed_again[kind]
    assert pasted(first) != pasted(again)
    found = [values(run(pasted(grant), "--json")) for grant in (first, again)]
    assert [each["verdict"] for each in found] == ["genuine", "genuine"]
    assert [each["access_key"] for each in found] == ["AKIDEXAMPLE", "AKIDROTATED"]


@pytest.mark.usefixtures("run")
def test_a_new_signature_is_told_with_its_access_key(
    signed_again: dict[str, tuple[Any, Any]],
) -> None:
    first, _ = signed_again["parts"]
    (reissue,) = shown(first["id"])["reissues"]
    assert reissue["access_key"] == "AKID…ATED"
    assert "signed again" in told(first["id"])


@pytest.mark.usefixtures("run")
def test_deliveries_and_the_manifest_are_told(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    request = grant_message(["acme/a.pdf"])
    service.issue(request)
    now = clock()
    with write_transaction(engine) as connection:
        number = connection.scalars(
            select(Batch.batch_number).where(Batch.batch_id == request["batch"])
        ).one()
        common = {"batch_number": number, "tenant": "acme", "created_at": now, "finished_at": now}
        connection.execute(
            insert(Delivery).values(
                **common,
                chunk_number=0,
                endpoint="billing",
                state="failed",
                attempts=3,
                next_attempt_at=now,
                status=503,
                problem="it answers 503",
            )
        )
        connection.execute(
            insert(Manifest).values(
                **common,
                object_key="acme/results.jsonl",
                state="written",
                attempts=1,
                next_attempt_at=now,
                issued=1,
                refused=0,
            )
        )
    text = told(f"{request['batch']}.0")
    assert "chunk 0 to endpoint billing, failed at 2026-" in text
    assert "after 3 attempts, HTTP 503: it answers 503" in text
    assert "acme/results.jsonl, written at 2026-" in text
