"""Revocations on storage that is not AWS, and that need not deny what AWS does."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from models import Denial
from tests.integration.conftest import ApplyConfig
from tests.integration.revocation.conftest import KEY, Revoke, as_json, issue, statements, status
from tests.support.builders.messages import Clock, put_message, upload_message
from tests.support.builders.services import InProcessService
from tests.support.s3.http_requests import Request, send
from worker.core.tenants.config import TenantConfig
from worker.db.engine import read_transaction
from worker.devstack.storage import Storage
from worker.usecases.revocation import proof


@pytest.mark.parametrize("setting", ["VALETKEY_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3"])
def test_a_profile_without_an_endpoint_is_denied_where_its_default_leads(
    setting: str,
    run: Revoke,
    service: InProcessService,
    config: TenantConfig,
    apply_config: ApplyConfig,
    seaweed: Storage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [grant] = issue(service, KEY)
    demo = replace(config.buckets["demo"], endpoint=None, provider="aws")
    apply_config(TenantConfig({"demo": demo}, config.tenants))
    monkeypatch.setenv(setting, seaweed.endpoint)
    result = run("--grant", grant["id"], "--yes")
    assert (result.exit_code, status(grant)) == (0, 403), result.output


def test_a_form_that_storage_accepts_despite_the_denial_is_not_called_ended(
    run: Revoke, service: InProcessService
) -> None:
    [form] = service.issue(upload_message(["acme/a.png"]))["items"]
    plan = run("--grant", form["id"]).output
    result = run("--grant", form["id"], "--yes")
    body = [*form["fields"].items(), ("file", b"abc")]
    assert send(Request("POST", form["url"], form=body)).status == 204  # on SeaweedFS
    assert "Error: not proven for 1 of kind upload" in result.output
    assert result.exit_code == 1
    assert "storage other than AWS may still accept forms" in plan


def test_a_proven_download_does_not_prove_the_uploads_beside_it(
    run: Revoke, service: InProcessService
) -> None:
    issue(service, KEY)
    service.issue(put_message({"acme/new.png": 3}))
    result = run("--tenant", "acme", "--yes", "--json")
    values = as_json(result)["result"]
    assert (result.exit_code, values["proven"], values["unproven"]) == (1, None, {"put": 1})


def test_a_second_revocation_says_who_did_it_and_adds_no_statement(
    run: Revoke, service: InProcessService, client: Any, bucket: str, engine: Engine
) -> None:
    [grant] = issue(service, KEY)
    run("--grant", grant["id"], "--yes")
    again = run("--grant", grant["id"], "--yes")
    assert "denied already by " in again.output
    assert "Done already: storage refuses a link" in again.output
    assert again.exit_code == 0, again.output
    assert len(statements(client, bucket)) == 1
    with read_transaction(engine) as connection:
        assert connection.scalar(select(func.count()).select_from(Denial)) == 1


def test_a_second_revocation_of_an_object_that_is_gone_proves_nothing(
    run: Revoke, service: InProcessService, client: Any, bucket: str
) -> None:
    [grant] = issue(service, KEY)
    run("--grant", grant["id"], "--yes")
    client.delete_bucket_policy(Bucket=bucket)
    client.delete_object(Bucket=bucket, Key=KEY)
    again = run("--grant", grant["id"], "--yes")
    assert (again.exit_code, "Error: not proven" in again.output) == (1, True)


def test_links_that_nothing_denied_and_storage_refuses_prove_nothing(
    run: Revoke, service: InProcessService, monkeypatch: pytest.MonkeyPatch
) -> None:
    [grant] = issue(service, KEY)
    monkeypatch.setattr(proof, "_use", lambda _: 403)
    result = run("--grant", grant["id"], "--yes")
    assert (result.exit_code, "Error: not proven" in result.output) == (1, True)


def test_a_statement_that_ends_too_early_is_not_used_again(
    run: Revoke, service: InProcessService, client: Any, bucket: str, clock: Clock
) -> None:
    [first] = issue(service, KEY)
    run("--grant", first["id"], "--yes")
    clock.forward(seconds=60)
    [second] = issue(service, KEY)
    output = run("--grant", second["id"], "--yes").output
    assert ("denied already" in output, len(statements(client, bucket))) == (False, 2)
