"""An export into a bucket appears when it is complete, and replaces nothing without --force."""

from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from tests.integration.conftest import ApplyConfig
from tests.support.builders.audit_rows import AuditedBatch
from worker.commands.audit.group import audit
from worker.core.tenants.config import Bucket, TenantConfig
from worker.db.engine import write_transaction
from worker.devstack.s3 import create_buckets
from worker.devstack.storage import Storage

KEY = "audit/all.csv"


@pytest.fixture
def export(
    engine: Engine,
    database_url: str,
    seaweed: Storage,
    apply_config: ApplyConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Result]:
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    monkeypatch.setenv("VALETKEY_S3_ENDPOINT", seaweed.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
    client = seaweed.client()
    create_buckets(client, {"exports"})
    client.delete_object(Bucket="exports", Key=KEY)
    apply_config(TenantConfig({"archive": Bucket("archive", "exports", "us-east-1", "path")}))
    with write_transaction(engine) as connection:
        AuditedBatch(1, ["a", "b"]).write(connection)
    words = ["export", "--out", f"s3://archive/{KEY}"]
    return lambda *more: CliRunner().invoke(audit, [*words, *more])


def test_an_object_is_stored_once_and_replaced_with_force(
    export: Callable[..., Result], seaweed: Storage
) -> None:
    result = export()
    assert result.exit_code == 0, result.output
    body = seaweed.client().get_object(Bucket="exports", Key=KEY)["Body"].read()
    assert len(body.splitlines()) == 3
    again = export()
    assert (again.exit_code, "--force" in again.stderr) == (1, True)
    assert export("--force").exit_code == 0
    assert "Uploads" not in seaweed.client().list_multipart_uploads(Bucket="exports")
