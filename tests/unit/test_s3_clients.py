"""The clients by which the worker itself calls storage."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.unit.boto import place
from tests.vault import Vault
from worker.adapters.s3 import S3
from worker.core.tenancy import Bucket

NOW = datetime.now(UTC).replace(microsecond=0)
LATER = NOW + timedelta(minutes=8)
BUCKET = place("reports", "us-east-1", "path", "https://s3.example.com", profile="vault")


@pytest.fixture(autouse=True)
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vault:
    vault = Vault(tmp_path, monkeypatch)
    vault.keep("ASIA1", NOW + timedelta(minutes=12))
    return vault


def client(s3: S3, bucket: Bucket = BUCKET, tenant: str = "acme", at: datetime = NOW) -> Any:
    return s3.client(bucket, tenant, ("acme/",), at)


@pytest.mark.parametrize(
    ("bucket", "endpoint"),
    [
        (replace(BUCKET, internal_endpoint="http://minio:9000"), "http://minio:9000"),
        (BUCKET, "https://s3.example.com"),
        (replace(BUCKET, endpoint=None), "http://127.0.0.1:8333"),
    ],
)
def test_the_workers_calls_go_to_where_it_reaches_storage(bucket: Bucket, endpoint: str) -> None:
    assert client(S3("http://127.0.0.1:8333"), bucket).meta.endpoint_url == endpoint


def test_the_internal_endpoint_is_in_no_link() -> None:
    bucket = replace(BUCKET, internal_endpoint="http://minio:9000")
    assert S3().target(bucket).host == "s3.example.com"


def test_a_client_is_kept_and_without_a_role_shared_by_all_tenants() -> None:
    s3 = S3()
    assert client(s3) is client(s3, tenant="globex")


def test_a_client_gives_way_when_its_credentials_do(vault: Vault) -> None:
    s3 = S3()
    first = client(s3)
    vault.keep("ASIA2", NOW + timedelta(hours=2))
    second = client(s3, at=LATER)
    assert second is not first
    assert second._get_credentials().access_key == "ASIA2"
