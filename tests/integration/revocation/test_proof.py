"""Proofs of revocations, and the steps that can fail after a revocation is recorded."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Revocation
from tests.integration.conftest import ApplyConfig
from tests.integration.revocation.conftest import KEY, OTHER_KEY, Revoke, as_json, issue, status
from tests.support.builders.messages import grant_message
from tests.support.builders.services import InProcessService
from worker.core.tenants.config import TenantConfig
from worker.core.uses.access_log import read_line
from worker.db.engine import read_transaction
from worker.net.storage_requests import StorageConnection
from worker.usecases.revocation import proof


def test_a_refusal_proves_nothing_if_no_link_worked_before(
    run: Revoke, service: InProcessService, client: Any, bucket: str
) -> None:
    [grant] = issue(service, KEY)
    client.delete_object(Bucket=bucket, Key=KEY)
    result = run("--grant", grant["id"], "--yes")
    assert (result.exit_code, "Error: not proven" in result.output) == (1, True)


def test_another_object_is_tried_if_the_first_is_gone(
    run: Revoke, service: InProcessService, client: Any, bucket: str
) -> None:
    issue(service, KEY, OTHER_KEY)
    client.delete_object(Bucket=bucket, Key=KEY)
    values = as_json(run("--prefix", "s3://demo/acme/", "--yes", "--json"))
    assert values["result"]["proven"] is True


def test_a_link_that_still_works_is_an_error(
    run: Revoke, service: InProcessService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.usecases.revocation.revoke.change_bucket", lambda *_: None)
    monkeypatch.setattr(proof, "_PROOF_SECONDS", 0)
    [grant] = issue(service, KEY)
    result = run("--grant", grant["id"], "--yes")
    assert (result.exit_code, status(grant)) == (1, 200)
    assert "Error: storage still accepts a link" in result.output


def test_the_link_of_a_proof_is_nobodys_download(
    run: Revoke, service: InProcessService, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    send = StorageConnection.send

    def record(connection: StorageConnection, request: Any, *arguments: Any) -> Any:
        sent.append(request)
        return send(connection, request, *arguments)

    monkeypatch.setattr(StorageConnection, "send", record)
    [grant] = issue(service, KEY)
    run("--grant", grant["id"], "--yes")
    for request in sent:
        assert read_line(request.url.encode()) == "other"
        assert request.headers["user-agent"] == "valetkey-revocation-proof"
    assert sent


def test_unreachable_storage_does_not_keep_a_revocation_from_being_recorded(
    run: Revoke,
    service: InProcessService,
    config: TenantConfig,
    apply_config: ApplyConfig,
    engine: Engine,
) -> None:
    message = grant_message([KEY])
    [grant] = service.issue(message)["items"]
    away = replace(config.buckets["demo"], internal_endpoint="http://127.0.0.1:9")
    apply_config(TenantConfig({"demo": away}, config.tenants))
    result = run("--grant", grant["id"], "--yes")
    assert (result.exit_code, "a link could not be tried" in result.output) == (1, True)
    assert "storage still accepts 1 of 1 grants" in result.output
    with read_transaction(engine) as connection:
        assert connection.scalars(select(Revocation.target)).all() == [grant["id"]]
    assert service.issue(message)["items"][0]["code"] == "revoked"


def test_an_unreachable_result_store_does_not_keep_links_from_being_denied(
    run: Revoke, service: InProcessService, monkeypatch: pytest.MonkeyPatch
) -> None:
    [grant] = issue(service, KEY)
    monkeypatch.setenv("VALETKEY_RESULT_URL", "redis://127.0.0.1:9/0")
    result = run("--grant", grant["id"], "--yes")
    assert (result.exit_code, status(grant)) == (1, 403)
    assert "unread results are not deleted" in result.output


def test_other_credentials_are_said_to_sign_again(run: Revoke, service: InProcessService) -> None:
    issue(service, KEY)
    shown = as_json(run("--prefix", "s3://demo/acme/", "--json"))
    levers = shown["levers"]
    key = next(each["where"] for each in levers if each["lever"] == "disable_access_key")
    output = " ".join(run("--credentials", key, "--yes").output.split())
    assert "other credentials may sign the grants again" in output
