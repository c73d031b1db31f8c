"""Destinations whose holder, or storage, answers what no service wrote."""

import itertools
import os
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.integration.conftest import ApplyConfig
from tests.integration.proof.checkpoints.conftest import Issue, Lose, publish_to
from tests.integration.proof.checkpoints.test_forks import (
    ACME,
    CONTRADICTED,
    refused,
    signed_sizes,
)
from tests.support.builders.messages import DEMO, tenant_config
from tests.support.cli.operator import ON_SQLITE
from tests.support.cli.operator import run_audit as run
from tests.support.fakes.http_storage import StorageResponse, StoredRequest, running_http_storage
from worker.rules.tenant_config import TenantConfig


@ON_SQLITE
def test_a_fork_is_declared_beside_a_file_that_cannot_be_read(
    issue: Issue, engine: Engine, folder: Path, lose: Lose
) -> None:
    issue(signs=True)
    lose(1, 1, 1)
    issue()
    nonsense = folder / "000000000003.checkpoint"
    nonsense.write_text("nonsense")
    result = run(*ACME, "--fork", "restored")
    assert "it does not continue 1 checkpoints, up to 4 leaves" in result.stderr
    assert f"{nonsense.name} is no checkpoint of this log" in refused(result)
    nonsense.unlink()
    assert CONTRADICTED in refused(run(*ACME))
    assert run(*ACME, "--fork", "restored").exit_code == 0
    assert signed_sizes(engine) == [1, 4]


@ON_SQLITE
@pytest.mark.parametrize("size", [2, 4])  # the size that is published next, and a larger one
def test_a_pipe_in_a_destination_is_not_waited_for(
    issue: Issue, engine: Engine, folder: Path, size: int
) -> None:
    issue(signs=True)
    os.mkfifo(folder / f"{size:012d}.checkpoint")
    issue()
    assert refused(run(*ACME)).endswith(f"{size:012d}.checkpoint is no file")
    assert signed_sizes(engine) == [1]


@ON_SQLITE
def test_a_bucket_that_lists_names_without_end_is_no_comparison(
    issue: Issue, engine: Engine, apply_config: ApplyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    pages = itertools.count(1)

    def respond(_: StoredRequest) -> StorageResponse:
        token = f"<NextContinuationToken>{next(pages)}</NextContinuationToken>"
        truncated = f"<IsTruncated>true</IsTruncated>{token}"
        return StorageResponse(body=f"<ListBucketResult>{truncated}</ListBucketResult>".encode())

    issue()
    with running_http_storage(respond) as storage:
        config = tenant_config()
        profile = replace(DEMO, name="evidence", endpoint=storage.url)
        apply_config(TenantConfig({**config.buckets, "evidence": profile}, config.tenants))
        publish_to(monkeypatch, "s3://evidence/audit")
        assert "its list of audit/acme/ does not end" in refused(run(*ACME))
    assert signed_sizes(engine) == []
