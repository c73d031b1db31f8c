"""Statements in bucket policies, which the upkeep keeps and removes."""

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, func, select
from structlog.testing import capture_logs

from models import Denial
from tests.integration.conftest import ApplyConfig
from tests.integration.revocation.conftest import KEY, Revoke, issue, statements, status
from tests.support.builders.messages import Clock, grant_message
from tests.support.builders.services import InProcessService
from worker.core.tenants.config import TenantConfig
from worker.db.engine import read_transaction
from worker.devstack.s3 import create_buckets
from worker.jobs.single_flight import JobRun
from worker.usecases.upkeep.cleanup import clean_up
from worker.usecases.upkeep.denials import keep_denials


@pytest.fixture
def grant(run: Revoke, service: InProcessService) -> dict[str, Any]:
    """A link that is revoked."""
    [grant] = issue(service, KEY)
    run("--grant", grant["id"], "--yes")
    return grant


@pytest.fixture
def moved(config: TenantConfig, client: Any) -> TenantConfig:
    """The config after its profile got another bucket."""
    other = f"revoke-{uuid4().hex[:12]}"
    create_buckets(client, {other})
    demo = replace(config.buckets["demo"], bucket=other)
    return TenantConfig({"demo": demo}, config.tenants)


def count_denials(engine: Engine) -> int:
    with read_transaction(engine) as connection:
        return connection.scalar(select(func.count()).select_from(Denial)) or 0


def test_a_statement_that_another_process_overwrote_is_added_again(
    grant: dict[str, Any], service: InProcessService, client: Any, bucket: str
) -> None:
    client.delete_bucket_policy(Bucket=bucket)
    assert status(grant) == 200
    keep_denials(service.context)
    assert status(grant) == 403


def test_the_release_of_grants_calls_no_storage(
    grant: dict[str, Any], service: InProcessService, client: Any, bucket: str
) -> None:
    client.delete_bucket_policy(Bucket=bucket)
    clean_up(service.context)
    assert status(grant) == 200


@pytest.mark.usefixtures("grant")
def test_keeping_denials_reports_progress_after_each_bucket(service: InProcessService) -> None:
    moments = iter(range(10))
    run = JobRun(lambda: next(moments))
    keep_denials(service.context, run)
    assert (run.idle_seconds, next(moments)) == (1, 3)


@pytest.mark.usefixtures("grant")
def test_a_statement_that_cannot_be_kept_is_logged_once(
    service: InProcessService, moved: TenantConfig, apply_config: ApplyConfig
) -> None:
    apply_config(moved)
    with capture_logs() as logs:
        for _ in range(3):
            keep_denials(service.context)
    assert [each["log_level"] for each in logs if each["event"] == "denials_left"] == ["warning"]


def test_a_denial_stays_known_until_a_profile_leads_to_its_bucket(
    grant: dict[str, Any],
    service: InProcessService,
    clock: Clock,
    engine: Engine,
    client: Any,
    bucket: str,
    moved: TenantConfig,
    config: TenantConfig,
    apply_config: ApplyConfig,
) -> None:
    assert grant
    apply_config(moved)
    clock.forward(hours=2)
    assert keep_denials(service.context)["denials"] == 0
    assert (len(statements(client, bucket)), count_denials(engine)) == (1, 1)
    old = replace(config.buckets["demo"], name="old")
    apply_config(TenantConfig({**moved.buckets, "old": old}, config.tenants))
    assert keep_denials(service.context)["denials"] == 1
    assert (statements(client, bucket), count_denials(engine)) == ([], 0)


def test_a_revoked_object_stays_revoked_in_a_profile_that_moved(
    run: Revoke,
    service: InProcessService,
    moved: TenantConfig,
    apply_config: ApplyConfig,
) -> None:
    message = grant_message([KEY])
    service.issue(message)
    run("--key", f"s3://demo/{KEY}", "--yes")
    apply_config(moved)
    assert service.issue(message)["items"][0]["code"] == "revoked"
