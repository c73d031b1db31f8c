"""How long a grant lives, where the credentials that sign it end, and what says so."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.integration.conftest import Declare
from tests.support.builders import services
from tests.support.builders.messages import DEMO, Clock, download_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.fakes.credential_process import CredentialProcess
from worker.aws.clients import S3Clients
from worker.core.tenants.config import TenantConfig

HOUR = 3_600
VAULT = replace(DEMO, profile="vault")


@pytest.fixture
def now(clock: Clock) -> datetime:
    """The real time, which the clock is set to: botocore looks at no other."""
    clock.time = datetime.now(UTC).replace(microsecond=0)
    return clock.time


@pytest.fixture
def vault(declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CredentialProcess:
    """Where the credentials of the only bucket come from."""
    declare(TenantConfig({"demo": VAULT}, tenant_config().tenants))
    return CredentialProcess(tmp_path, monkeypatch)


def life(answer: dict[str, Any], now: datetime) -> tuple[float, str]:
    grant = answer["items"][0]
    ends = datetime.fromisoformat(grant["expires_at"])
    return (ends - now).total_seconds(), grant["limited_by"]


def test_credentials_with_twelve_minutes_left_cut_the_grant(
    vault: CredentialProcess, issuer: InProcessService, now: datetime
) -> None:
    vault.keep("ASIA1", now + timedelta(minutes=12))
    answer = issuer.issue(download_message(expires_in=HOUR))
    assert life(answer, now) == (720, "credentials")
    assert "X-Amz-Expires=720&" in answer["items"][0]["url"]


def test_credentials_with_twelve_minutes_left_are_too_short_for_thirteen(
    vault: CredentialProcess, issuer: InProcessService, now: datetime
) -> None:
    vault.keep("ASIA1", now + timedelta(minutes=12))
    refusal = issuer.issue(download_message(expires_in=HOUR, min_expires_in=780))["refusal"]
    assert (refusal["code"], refusal["limit"]) == ("expiry_too_short", 720)


def test_credentials_are_refreshed_where_that_meets_the_request(
    vault: CredentialProcess, issuer: InProcessService, clock: Clock, now: datetime
) -> None:
    vault.keep("ASIA1", now + timedelta(minutes=12))
    issuer.issue(download_message(expires_in=300))
    vault.keep("ASIA2", now + timedelta(hours=2))
    clock.forward(minutes=1)
    answer = issuer.issue(download_message(expires_in=HOUR))
    assert life(answer, clock.time) == (HOUR, "request")
    assert "Credential=ASIA2" in answer["items"][0]["url"]


def test_a_refresh_that_fails_leaves_the_grant_what_is_left(
    vault: CredentialProcess, issuer: InProcessService, clock: Clock, now: datetime
) -> None:
    vault.keep("ASIA1", now + timedelta(minutes=12))
    issuer.issue(download_message(expires_in=300))
    vault.empty()
    clock.forward(minutes=1)
    assert life(issuer.issue(download_message(expires_in=HOUR)), clock.time) == (660, "credentials")


def test_a_refresh_that_fails_refuses_what_needs_longer(
    vault: CredentialProcess, issuer: InProcessService, clock: Clock, now: datetime
) -> None:
    vault.keep("ASIA1", now + timedelta(minutes=12))
    issuer.issue(download_message(expires_in=300))
    vault.empty()
    clock.forward(minutes=1)
    refusal = issuer.issue(download_message(expires_in=HOUR, min_expires_in=700))["refusal"]
    assert (refusal["code"], refusal["limit"]) == ("expiry_too_short", 660)


def test_the_providers_longest_life_cuts_the_grant(
    declare: Declare, issuer: InProcessService, now: datetime
) -> None:
    short = replace(DEMO, max_expires_in=600)
    declare(TenantConfig({"demo": short}, tenant_config().tenants))
    assert life(issuer.issue(download_message(expires_in=HOUR)), now) == (600, "provider")


def test_a_provider_whose_longest_life_is_too_short_is_refused(
    declare: Declare, issuer: InProcessService
) -> None:
    short = replace(DEMO, max_expires_in=600)
    declare(TenantConfig({"demo": short}, tenant_config().tenants))
    refusal = issuer.issue(download_message(expires_in=HOUR, min_expires_in=601))["refusal"]
    assert (refusal["code"], refusal["limit"]) == ("expiry_too_short", 600)
    assert "storage" in refusal["message"]


def test_a_grant_signed_again_claims_no_more_than_its_new_credentials_have(
    vault: CredentialProcess, issuer: InProcessService, engine: Engine, clock: Clock, now: datetime
) -> None:
    vault.keep("ASIA1", now + timedelta(hours=2))
    request = download_message(expires_in=HOUR)
    issuer.issue(request)
    vault.keep("ASIA2", now + timedelta(minutes=20))
    other_process = services.build_service(engine, S3Clients(), clock)
    again = other_process.issue(request)
    assert life(again, now) == (1_200, "credentials")
    assert "X-Amz-Expires=1200&" in again["items"][0]["url"]
