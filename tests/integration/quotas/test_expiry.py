"""The expiry of grants if their credentials or the provider limit it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.integration.conftest import ApplyConfig
from tests.support.builders import services
from tests.support.builders.messages import DEMO, Clock, download_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.fakes.credential_process import CredentialProcess
from worker.aws.clients import S3Clients
from worker.core.tenants.config import TenantConfig

HOUR = 3_600
VAULT_BUCKET = replace(DEMO, profile="vault")


@pytest.fixture
def now(clock: Clock) -> datetime:
    """The current time, to which the clock is set: botocore uses no other clock."""
    clock.time = datetime.now(UTC).replace(microsecond=0)
    return clock.time


@pytest.fixture
def vault(
    apply_config: ApplyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> CredentialProcess:
    """The source of the credentials of the only bucket."""
    apply_config(TenantConfig({"demo": VAULT_BUCKET}, tenant_config().tenants))
    return CredentialProcess(tmp_path, monkeypatch)


def validity(outcome: dict[str, Any], now: datetime) -> tuple[float, str]:
    """Return the seconds for which a grant is still valid, and what limits it."""
    grant = outcome["items"][0]
    expires_at = datetime.fromisoformat(grant["expires_at"])
    return (expires_at - now).total_seconds(), grant["limited_by"]


def test_credentials_that_expire_in_twelve_minutes_limit_the_grant(
    vault: CredentialProcess, service: InProcessService, now: datetime
) -> None:
    vault.write_credentials("ASIA1", now + timedelta(minutes=12))
    outcome = service.issue(download_message(expires_in=HOUR))
    assert validity(outcome, now) == (720, "credentials")
    assert "X-Amz-Expires=720&" in outcome["items"][0]["url"]


def test_a_minimum_beyond_the_expiry_of_the_credentials_is_refused(
    vault: CredentialProcess, service: InProcessService, now: datetime
) -> None:
    vault.write_credentials("ASIA1", now + timedelta(minutes=12))
    refusal = service.issue(download_message(expires_in=HOUR, min_expires_in=780))["refusal"]
    assert (refusal["code"], refusal["limit"]) == ("expiry_too_short", 720)


def test_credentials_are_refreshed_if_a_request_needs_longer_ones(
    vault: CredentialProcess, service: InProcessService, clock: Clock, now: datetime
) -> None:
    vault.write_credentials("ASIA1", now + timedelta(minutes=12))
    service.issue(download_message(expires_in=300))
    vault.write_credentials("ASIA2", now + timedelta(hours=2))
    clock.forward(minutes=1)
    outcome = service.issue(download_message(expires_in=HOUR))
    assert validity(outcome, clock.time) == (HOUR, "request")
    assert "Credential=ASIA2" in outcome["items"][0]["url"]


def test_after_a_failed_refresh_the_current_credentials_limit_the_grant(
    vault: CredentialProcess, service: InProcessService, clock: Clock, now: datetime
) -> None:
    vault.write_credentials("ASIA1", now + timedelta(minutes=12))
    service.issue(download_message(expires_in=300))
    vault.remove_output()
    clock.forward(minutes=1)
    outcome = service.issue(download_message(expires_in=HOUR))
    assert validity(outcome, clock.time) == (660, "credentials")


def test_after_a_failed_refresh_a_longer_minimum_is_refused(
    vault: CredentialProcess, service: InProcessService, clock: Clock, now: datetime
) -> None:
    vault.write_credentials("ASIA1", now + timedelta(minutes=12))
    service.issue(download_message(expires_in=300))
    vault.remove_output()
    clock.forward(minutes=1)
    refusal = service.issue(download_message(expires_in=HOUR, min_expires_in=700))["refusal"]
    assert (refusal["code"], refusal["limit"]) == ("expiry_too_short", 660)


def test_the_maximum_of_the_provider_limits_the_grant(
    apply_config: ApplyConfig, service: InProcessService, now: datetime
) -> None:
    bucket = replace(DEMO, max_expires_in=600)
    apply_config(TenantConfig({"demo": bucket}, tenant_config().tenants))
    assert validity(service.issue(download_message(expires_in=HOUR)), now) == (600, "provider")


def test_a_minimum_beyond_the_maximum_of_the_provider_is_refused(
    apply_config: ApplyConfig, service: InProcessService
) -> None:
    bucket = replace(DEMO, max_expires_in=600)
    apply_config(TenantConfig({"demo": bucket}, tenant_config().tenants))
    refusal = service.issue(download_message(expires_in=HOUR, min_expires_in=601))["refusal"]
    assert (refusal["code"], refusal["limit"]) == ("expiry_too_short", 600)
    assert "storage" in refusal["message"]


def test_a_grant_that_is_signed_again_does_not_outlive_its_new_credentials(
    vault: CredentialProcess, service: InProcessService, engine: Engine, clock: Clock, now: datetime
) -> None:
    vault.write_credentials("ASIA1", now + timedelta(hours=2))
    request = download_message(expires_in=HOUR)
    service.issue(request)
    vault.write_credentials("ASIA2", now + timedelta(minutes=20))
    other_process = services.build_service(engine, S3Clients(), clock)
    outcome = other_process.issue(request)
    assert validity(outcome, now) == (1_200, "credentials")
    assert "X-Amz-Expires=1200&" in outcome["items"][0]["url"]
