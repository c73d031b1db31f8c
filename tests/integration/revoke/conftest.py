import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from models import Denial
from tests.support.builders.messages import POLICY, Clock, grant_message, tenant_config
from tests.support.builders.services import build_context
from tests.support.uses.use_service import UseService
from worker.aws.s3_clients import S3Clients
from worker.dev.embedded_servers import Storage, create_buckets
from worker.revoke.revoke_command import revoke
from worker.rules.tenant_config import Bucket, Tenant, TenantConfig

KEY, OTHER_KEY = "acme/a.pdf", "acme/b.pdf"


class Links(UseService):
    """Links of acme and globex to the two objects of a bucket, and the command that revokes."""

    client: Any
    bucket: str
    config: TenantConfig

    def grant(self, *keys: str, **changes: Any) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.issue(grant_message(keys, **changes))["items"]
        return items

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(revoke, words)

    def revoke(self, grant: dict[str, Any], *words: str) -> Result:
        return self.run("--grant", grant["id"], "--yes", *words)

    def values(self, *words: str) -> dict[str, Any]:
        result = self.run(*words, "--json")
        assert result.exception is None or isinstance(result.exception, SystemExit)
        values: dict[str, Any] = json.loads(result.stdout)
        return values

    def change_bucket(self, **changes: Any) -> Bucket:
        """Apply a config with another profile of the bucket; return the profile."""
        demo = replace(self.config.buckets["demo"], **changes)
        self.apply(TenantConfig({"demo": demo}, self.config.tenants))
        return demo

    def apply_profiles(self, *buckets: Bucket) -> None:
        """Apply a config with these bucket profiles, of which acme has access to each."""
        policies = {each.name: replace(POLICY, bucket=each.name) for each in buckets}
        acme = replace(self.config.tenants["acme"], policies=policies)
        self.apply(TenantConfig({each.name: each for each in buckets}, {"acme": acme}))

    def copy_denial(self, **changes: Any) -> None:
        """Insert a copy of the only row of a statement, with changes."""
        columns = Denial.__table__.columns.keys()
        [row] = self.rows(*(getattr(Denial, name) for name in columns))
        self.insert(Denial, **dict(zip(columns, row, strict=True)) | changes)

    def new_bucket(self) -> str:
        """Create a bucket with two objects; return its name."""
        name = f"revoke-{uuid4().hex[:12]}"
        create_buckets(self.client, {name})
        for key in (KEY, OTHER_KEY):
            self.client.put_object(Bucket=name, Key=key, Body=b"content")
        return name

    def statements(self) -> list[dict[str, Any]]:
        try:
            policy = self.client.get_bucket_policy(Bucket=self.bucket)["Policy"]
        except self.client.exceptions.ClientError:
            return []
        found: list[dict[str, Any]] = json.loads(policy)["Statement"]
        return found


@pytest.fixture
def links(
    engine: Engine,
    database_url: str,
    valkey_url: str,
    seaweed: Storage,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> Links:
    """Links at the current time, which storage checks."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    monkeypatch.setenv("VALETKEY_RESULT_URL", valkey_url)
    monkeypatch.setattr("worker.clock.now", clock)
    clock.time = datetime.now(UTC)
    links = Links(build_context(engine, S3Clients(), clock), clock)
    links.client = seaweed.client()
    links.bucket, base = links.new_bucket(), tenant_config()
    globex = Tenant("globex", trust="queue", policies={"demo": POLICY})
    links.config = TenantConfig(base.buckets, {**base.tenants, "globex": globex})
    demo = links.change_bucket(bucket=links.bucket, endpoint=seaweed.endpoint, provider="other")
    links.config = replace(links.config, buckets={"demo": demo})
    return links


def check(result: Result, exit_code: int, text: str) -> None:
    """Check how the command ended, and that it printed a text."""
    assert (result.exit_code, text in result.output) == (exit_code, True), result.output
