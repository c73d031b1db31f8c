"""A worker's answer to a probe: what works is None, and what fails has a cause without secrets."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from models import Grant, Probe
from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import DEMO, Clock, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.fakes.credential_process import CredentialProcess
from worker.base.database_engine import write_transaction
from worker.doctor.service_probe import CACHE_SECONDS, ServiceProbe, try_service

WORKS = {"database": None, "signing": None}


def test_each_probe_commits_the_only_row_and_grants_nothing(
    service: InProcessService, apply_config: ApplyConfig, clock: Clock
) -> None:
    apply_config(tenant_config())
    for _ in range(2):
        clock.forward(seconds=15)
        assert try_service(service.context) == WORKS
        assert service.rows(Probe.probed_at) == [(clock(),)]
    assert service.rows(Grant) == []


def test_the_cause_is_named_if_a_row_cannot_be_written(
    service: InProcessService, engine: Engine
) -> None:
    with write_transaction(engine) as connection:
        connection.execute(text("DROP TABLE probes"))
    result = try_service(service.context)
    assert result == {"database": "it has no tables of valetkey yet", "signing": None}


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"profile": "none"}, "no credentials of AWS profile 'none': ProfileNotFound"),
        (
            {"endpoint": None, "region": "cn-north-1", "accelerate": True},
            "boto3 cannot sign for it",
        ),
    ],
)
def test_a_bucket_profile_for_which_nothing_can_be_signed_is_named(
    service: InProcessService, apply_config: ApplyConfig, fields: dict[str, object], cause: str
) -> None:
    other = replace(DEMO, name="other", addressing="virtual", **fields)  # type: ignore[arg-type]
    apply_config(replace(tenant_config(), buckets={"demo": DEMO, "other": other}))
    expected = {"database": None, "signing": f"bucket profile other: {cause}"}
    assert try_service(service.context) == expected


def test_credentials_that_have_expired_are_named(
    service: InProcessService,
    apply_config: ApplyConfig,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vault = CredentialProcess(tmp_path, monkeypatch)
    apply_config(replace(tenant_config(), buckets={"demo": replace(DEMO, profile="vault")}))
    end = clock() + timedelta(days=10_000)  # for botocore, which has a clock of its own
    vault.write_credentials("AKIDVAULT", end)
    assert try_service(service.context) == WORKS
    clock.time = end
    result = try_service(service.context)
    assert result["signing"] == "bucket profile demo: its credentials have expired"


def test_no_role_is_assumed_for_a_probe(
    service: InProcessService, apply_config: ApplyConfig
) -> None:
    role = replace(DEMO, profile="none", role_arn="arn:aws:iam::123456789012:role/links")
    apply_config(replace(tenant_config(), buckets={"demo": role}))
    assert try_service(service.context) == WORKS


def test_a_flood_of_probes_commits_once_a_second(service: InProcessService, clock: Clock) -> None:
    times = []
    seconds = [0.0, 0.0, 0.5, CACHE_SECONDS - 0.01, CACHE_SECONDS, CACHE_SECONDS]
    probe = ServiceProbe(iter(seconds).__next__)
    for _ in range(4):
        clock.forward(seconds=1)
        assert probe(service.context) == WORKS
        times += service.rows(Probe.probed_at)
    assert len(set(times)) == 2
