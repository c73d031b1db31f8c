from dataclasses import replace
from urllib.parse import parse_qsl, urlsplit

import pytest

from models import Batch, Chunk, Grant, Reissue
from tests.support.builders.messages import (
    DEMO,
    POLICY,
    Clock,
    download_message,
    grant_message,
    tenant_config,
)
from tests.support.builders.services import InProcessService
from worker.core.tenant_config import TenantConfig


@pytest.fixture
def service(service: InProcessService) -> InProcessService:
    service.apply(tenant_config())
    return service


def audit_rows(service: InProcessService) -> list[tuple[str, str | None]]:
    return [(row[0], row[1]) for row in service.rows(Grant.object_key, Grant.code)]


def test_a_grant_has_an_audit_row_and_is_charged(service: InProcessService) -> None:
    outcome = service.issue(grant_message(["acme/a.pdf"]))
    assert outcome["items"][0]["url"].startswith("http://127.0.0.1:9/valetkey-demo/acme/a.pdf?")
    assert audit_rows(service) == [("acme/a.pdf", None)]
    assert service.charged() == 1


def test_no_url_or_signature_is_stored(service: InProcessService) -> None:
    grant = service.issue(grant_message())["items"][0]
    signature = grant["url"].rpartition("=")[2]
    rows = [service.rows(table) for table in (Batch, Chunk, Grant)]
    assert signature not in repr(rows)
    assert "X-Amz" not in repr(rows)


def test_an_object_key_that_cannot_be_stored_is_recorded_escaped(service: InProcessService) -> None:
    outcome = service.issue(grant_message(["acme/\0", "acme/\ud800"]))
    assert [item["code"] for item in outcome["items"]] == ["key_control", "key_invalid"]
    assert audit_rows(service) == [("acme/\\0", "key_control"), ("acme/\\ud800", "key_invalid")]


def test_a_message_delivered_again_has_the_same_outcome_and_is_charged_once(
    service: InProcessService, clock: Clock
) -> None:
    request = grant_message(["acme/a", "acme/../b"])
    request["items"][0]["filename"] = "a.pdf"
    first = service.issue(request)
    clock.forward(minutes=2)
    assert service.issue(request) == first
    assert service.charged() == 1
    assert len(service.rows(Grant)) == 2


def test_grants_that_differ_are_recorded_as_reissued(service: InProcessService) -> None:
    request = grant_message()
    first = service.issue(request)
    moved = replace(DEMO, bucket="moved")
    service.apply(TenantConfig({"demo": moved}, tenant_config().tenants))
    second = service.issue(request)
    assert second["items"][0]["url"] != first["items"][0]["url"]
    assert len(service.rows(Reissue)) == 1
    service.issue(request)
    assert len(service.rows(Reissue)) == 1


def test_a_plain_link_is_audited_and_charged_like_any_other(service: InProcessService) -> None:
    service.apply(tenant_config(policies={"demo": replace(POLICY, plain=True)}))
    request = download_message(plain=True)
    (grant,) = service.issue(request)["items"]
    assert grant["id"] == f"{request['batch']}.0"
    assert {name[:6] for name, _ in parse_qsl(urlsplit(grant["url"]).query)} == {"X-Amz-"}
    assert service.issue(request)["items"] == [grant]
    assert audit_rows(service) == [("acme/a.pdf", None)]
    assert service.charged("hour", "download_grants") == 1
