"""Grants, their rows and charges, and their expiry if credentials or the provider limit it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
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
from tests.support.builders.services import InProcessService, other_processes
from tests.support.fakes.credential_process import CredentialProcess


@pytest.fixture
def service(service: InProcessService) -> InProcessService:
    service.apply(tenant_config())
    return service


def audit_rows(service: InProcessService) -> list[tuple[str, str | None]]:
    return [(row[0], row[1]) for row in service.rows(Grant.object_key, Grant.code)]


def test_a_grant_is_audited_and_charged_and_no_url_or_signature_is_stored(
    service: InProcessService,
) -> None:
    grant = service.issue(grant_message(["acme/a.pdf"]))["items"][0]
    assert grant["url"].startswith("http://127.0.0.1:9/valetkey-demo/acme/a.pdf?")
    assert (audit_rows(service), service.charged()) == ([("acme/a.pdf", None)], 1)
    signature = grant["url"].rpartition("=")[2]
    rows = [service.rows(table) for table in (Batch, Chunk, Grant)]
    assert signature not in repr(rows)
    assert "X-Amz" not in repr(rows)


def test_an_object_key_that_cannot_be_stored_is_recorded_escaped(service: InProcessService) -> None:
    outcome = service.issue(grant_message(["acme/\0", "acme/\ud800"]))
    assert [item["code"] for item in outcome["items"]] == ["key_control", "key_invalid"]
    assert audit_rows(service) == [("acme/\\0", "key_control"), ("acme/\\ud800", "key_invalid")]


def test_grants_that_differ_are_recorded_as_reissued(service: InProcessService) -> None:
    request = grant_message()
    first = service.issue(request)
    service.apply(replace(tenant_config(), buckets={"demo": replace(DEMO, bucket="moved")}))
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


HOUR = 3_600


@pytest.fixture
def now(clock: Clock) -> datetime:
    """The current time, to which the clock is set: botocore uses no other clock."""
    clock.time = datetime.now(UTC).replace(microsecond=0)
    return clock.time


@pytest.fixture
def vault(
    service: InProcessService, now: datetime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> CredentialProcess:
    """The source of the credentials of the only bucket, which expire in twelve minutes."""
    service.apply(replace(tenant_config(), buckets={"demo": replace(DEMO, profile="vault")}))
    process = CredentialProcess(tmp_path, monkeypatch)
    process.write_credentials("ASIA1", now + timedelta(minutes=12))
    return process


def validity(outcome: dict[str, Any], now: datetime) -> tuple[float, str]:
    """Return the seconds for which a grant is still valid, and what limits it."""
    grant = outcome["items"][0]
    expires_at = datetime.fromisoformat(grant["expires_at"])
    return (expires_at - now).total_seconds(), grant["limited_by"]


@pytest.mark.usefixtures("vault")
def test_credentials_that_expire_in_twelve_minutes_limit_the_grant(
    service: InProcessService, now: datetime
) -> None:
    outcome = service.issue(download_message(expires_in=HOUR))
    assert validity(outcome, now) == (720, "credentials")
    assert "X-Amz-Expires=720&" in outcome["items"][0]["url"]


def test_credentials_are_refreshed_if_a_request_needs_longer_ones(
    vault: CredentialProcess, service: InProcessService, clock: Clock
) -> None:
    service.issue(download_message())
    vault.write_credentials("ASIA2", clock() + timedelta(hours=2))
    clock.forward(minutes=1)
    outcome = service.issue(download_message(expires_in=HOUR))
    assert validity(outcome, clock()) == (HOUR, "request")
    assert "Credential=ASIA2" in outcome["items"][0]["url"]


def test_a_grant_that_is_signed_again_does_not_outlive_its_new_credentials(
    vault: CredentialProcess, service: InProcessService, now: datetime
) -> None:
    vault.write_credentials("ASIA1", now + timedelta(hours=2))
    request = download_message(expires_in=HOUR)
    service.issue(request)
    vault.write_credentials("ASIA2", now + timedelta(minutes=20))
    with other_processes(service) as (other,):
        outcome = other.issue(request)
    assert validity(outcome, now) == (1_200, "credentials")
    assert "X-Amz-Expires=1200&" in outcome["items"][0]["url"]
