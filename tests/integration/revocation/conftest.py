import json
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import (
    POLICY,
    Clock,
    grant_message,
    tenant_config,
)
from tests.support.builders.services import InProcessService
from worker.commands.revocation.revoke import revoke
from worker.core.tenants.config import Tenant, TenantConfig
from worker.devstack.s3 import create_buckets
from worker.devstack.storage import Storage

Revoke = Callable[..., Result]
KEY, OTHER_KEY = "acme/a.pdf", "acme/b.pdf"


@pytest.fixture
def client(seaweed: Storage) -> Any:
    return seaweed.client()


@pytest.fixture
def bucket(client: Any) -> str:
    """A bucket with two objects."""
    name = f"revoke-{uuid4().hex[:12]}"
    create_buckets(client, {name})
    for key in (KEY, OTHER_KEY):
        client.put_object(Bucket=name, Key=key, Body=b"content")
    return name


@pytest.fixture(autouse=True)
def config(
    bucket: str, seaweed: Storage, apply_config: ApplyConfig, monkeypatch: pytest.MonkeyPatch
) -> TenantConfig:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
    base = tenant_config()
    demo = replace(base.buckets["demo"], bucket=bucket, endpoint=seaweed.endpoint, provider="other")
    shared = Tenant("globex", trust="queue", policies={"demo": POLICY})
    config = TenantConfig({"demo": demo}, {**base.tenants, "globex": shared})
    apply_config(config)
    return config


@pytest.fixture(autouse=True)
def now(clock: Clock) -> Clock:
    """The clock, at the current time: storage checks it."""
    clock.time = datetime.now(UTC)
    return clock


@pytest.fixture
def service(
    config: TenantConfig,
    service: InProcessService,
    seaweed: Storage,
    monkeypatch: pytest.MonkeyPatch,
) -> InProcessService:
    assert config.tenants
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
    return service


@pytest.fixture
def run(
    database_url: str, valkey_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> Revoke:
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    monkeypatch.setenv("VALETKEY_RESULT_URL", valkey_url)
    monkeypatch.setattr("worker.clock.now", clock)
    return lambda *words: CliRunner().invoke(revoke, list(words))


def issue(service: InProcessService, *keys: str, **changes: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = service.issue(grant_message(keys, **changes))["items"]
    return items


def status(grant: dict[str, Any]) -> int:
    try:
        with urllib.request.urlopen(grant["url"], timeout=10) as response:  # noqa: S310 - our own link
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def as_json(result: Result) -> dict[str, Any]:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    values: dict[str, Any] = json.loads(result.stdout)
    return values


def statements(client: Any, bucket: str) -> list[dict[str, Any]]:
    """Return the statements of a bucket's policy."""
    try:
        document: dict[str, Any] = json.loads(client.get_bucket_policy(Bucket=bucket)["Policy"])
    except client.exceptions.ClientError:
        return []
    found: list[dict[str, Any]] = document["Statement"]
    return found
