"""The clients by which the worker itself calls storage."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders.boto import place
from tests.support.fakes.credential_process import CredentialProcess
from worker.aws.clients import S3Clients
from worker.core.tenants.config import Bucket

MINUTE = timedelta(minutes=1)
BUCKET = place("reports", "us-east-1", "path", "https://s3.example.com", profile="vault")


@pytest.fixture(autouse=True)
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CredentialProcess:
    vault = CredentialProcess(tmp_path, monkeypatch)
    vault.keep("ASIA1", datetime.now(UTC) + 12 * MINUTE)
    return vault


def client(
    s3: S3Clients, bucket: Bucket = BUCKET, tenant: str = "acme", later: timedelta = timedelta()
) -> Any:
    return s3.client(bucket, tenant, ("acme/",), datetime.now(UTC) + later)


@pytest.mark.parametrize(
    ("bucket", "endpoint"),
    [
        (replace(BUCKET, internal_endpoint="http://minio:9000"), "http://minio:9000"),
        (BUCKET, "https://s3.example.com"),
        (replace(BUCKET, endpoint=None), "http://127.0.0.1:8333"),
    ],
)
def test_the_workers_calls_go_to_where_it_reaches_storage(bucket: Bucket, endpoint: str) -> None:
    assert client(S3Clients("http://127.0.0.1:8333"), bucket).meta.endpoint_url == endpoint


def test_the_internal_endpoint_is_in_no_link() -> None:
    bucket = replace(BUCKET, internal_endpoint="http://minio:9000")
    assert S3Clients().target(bucket).host == "s3.example.com"


def test_a_client_is_kept_and_without_a_role_shared_by_all_tenants() -> None:
    s3 = S3Clients()
    assert client(s3) is client(s3, tenant="globex")


def test_a_client_gives_way_when_its_credentials_do(vault: CredentialProcess) -> None:
    s3 = S3Clients()
    first = client(s3)
    vault.keep("ASIA2", datetime.now(UTC) + 120 * MINUTE)
    second = client(s3, later=8 * MINUTE)
    assert second is not first
    assert second._get_credentials().access_key == "ASIA2"
