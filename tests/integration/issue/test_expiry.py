"""The expiry of grants if their credentials or the provider limit it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders.messages import DEMO, Clock, download_message, tenant_config
from tests.support.builders.services import InProcessService, other_processes
from tests.support.fakes.credential_process import CredentialProcess
from worker.core.tenant_config import TenantConfig

HOUR = 3_600
VAULT_BUCKET = replace(DEMO, profile="vault")


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
    service.apply(TenantConfig({"demo": VAULT_BUCKET}, tenant_config().tenants))
    process = CredentialProcess(tmp_path, monkeypatch)
    process.write_credentials("ASIA1", now + timedelta(minutes=12))
    return process


def validity(outcome: dict[str, Any], now: datetime) -> tuple[float, str]:
    """Return the seconds for which a grant is still valid, and what limits it."""
    grant = outcome["items"][0]
    expires_at = datetime.fromisoformat(grant["expires_at"])
    return (expires_at - now).total_seconds(), grant["limited_by"]


def hour_message(**changes: Any) -> dict[str, Any]:
    return download_message(expires_in=HOUR, **changes)


@pytest.mark.usefixtures("vault")
def test_credentials_that_expire_in_twelve_minutes_limit_the_grant(
    service: InProcessService, now: datetime
) -> None:
    outcome = service.issue(hour_message())
    assert validity(outcome, now) == (720, "credentials")
    assert "X-Amz-Expires=720&" in outcome["items"][0]["url"]


def test_credentials_are_refreshed_if_a_request_needs_longer_ones(
    vault: CredentialProcess, service: InProcessService, clock: Clock
) -> None:
    service.issue(download_message())
    vault.write_credentials("ASIA2", clock() + timedelta(hours=2))
    clock.forward(minutes=1)
    outcome = service.issue(hour_message())
    assert validity(outcome, clock()) == (HOUR, "request")
    assert "Credential=ASIA2" in outcome["items"][0]["url"]


def test_a_grant_that_is_signed_again_does_not_outlive_its_new_credentials(
    vault: CredentialProcess, service: InProcessService, now: datetime
) -> None:
    vault.write_credentials("ASIA1", now + timedelta(hours=2))
    request = hour_message()
    service.issue(request)
    vault.write_credentials("ASIA2", now + timedelta(minutes=20))
    with other_processes(service) as (other,):
        outcome = other.issue(request)
    assert validity(outcome, now) == (1_200, "credentials")
    assert "X-Amz-Expires=1200&" in outcome["items"][0]["url"]
