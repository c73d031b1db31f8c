"""A role on a server that has IAM and STS, a bucket profile with it, and the service that signs."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import boto3
import pytest
from sqlalchemy import Engine

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import POLICY, Clock, tenant_config
from tests.support.builders.services import InProcessService, build_context
from worker.aws.clients import S3Clients
from worker.aws.role_policies import RolePolicies
from worker.core.revocation.role_policy import POLICY_NAME, read_sessions_from
from worker.core.tenants.config import Bucket, Tenant, TenantConfig
from worker.db.engine import write_transaction
from worker.db.revocation.ended_sessions import EndedSessionsRow, store_ended_sessions
from worker.db.tenants import increment_revision
from worker.devstack.s3 import create_buckets
from worker.devstack.storage import Storage

REGION = "us-east-1"


@dataclass
class Role:
    """A role, and what tests read of it without the service."""

    arn: str
    storage: Storage

    @property
    def name(self) -> str:
        return self.arn.rpartition("/")[2]

    @property
    def iam(self) -> Any:
        return boto3.client("iam", region_name=REGION, endpoint_url=self.storage.endpoint)

    @property
    def sessions_from(self) -> datetime | None:
        """The moment in the role's policy of ours."""
        iam = self.iam
        try:
            policy = iam.get_role_policy(RoleName=self.name, PolicyName=POLICY_NAME)
        except iam.exceptions.NoSuchEntityException:
            return None
        return read_sessions_from(policy["PolicyDocument"])


def statement_document(**statement: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]})


@pytest.fixture
def role(ministack: Storage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Role]:
    """A role with full access to S3, which anybody may assume."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ministack.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ministack.secret_key)
    name = f"sessions-{uuid4().hex[:12]}"
    role = Role(f"arn:aws:iam::000000000000:role/{name}", ministack)
    trust = statement_document(Principal={"AWS": "*"}, Action="sts:AssumeRole")
    access = statement_document(Action="s3:*", Resource="*")
    role.iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)
    role.iam.put_role_policy(RoleName=name, PolicyName="s3", PolicyDocument=access)
    yield role
    for policy in role.iam.list_role_policies(RoleName=name)["PolicyNames"]:
        role.iam.delete_role_policy(RoleName=name, PolicyName=policy)
    role.iam.delete_role(RoleName=name)


@pytest.fixture
def profile(role: Role, ministack: Storage) -> Bucket:
    """A bucket profile with the role, whose bucket has an object of each tenant."""
    client = ministack.client()
    create_buckets(client, {role.name})
    for key in ("acme/a.pdf", "globex/a.pdf"):
        client.put_object(Bucket=role.name, Key=key, Body=b"content")
    bucket = Bucket("demo", role.name, REGION, "path", ministack.endpoint, provider="other")
    return replace(bucket, role_arn=role.arn, role_seconds=900)


@pytest.fixture
def config(profile: Bucket, apply_config: ApplyConfig) -> TenantConfig:
    """Two tenants that share the role."""
    globex = Tenant(
        "globex", trust="queue", policies={"demo": replace(POLICY, prefixes=("globex/",))}
    )
    config = TenantConfig({"demo": profile}, {**tenant_config().tenants, "globex": globex})
    apply_config(config)
    return config


@pytest.fixture(autouse=True)
def now(clock: Clock) -> Clock:
    """The clock, at the current time: storage checks it."""
    clock.time = datetime.now(UTC)
    return clock


@pytest.fixture
def service(
    engine: Engine, config: TenantConfig, ministack: Storage, clock: Clock
) -> InProcessService:
    """A worker's process."""
    assert config.tenants
    s3 = S3Clients(sts_endpoint=ministack.endpoint)
    roles = RolePolicies(ministack.endpoint)
    return InProcessService(build_context(engine, s3, clock, roles=roles))


@pytest.fixture
def store(engine: Engine, role: Role) -> Callable[[datetime], EndedSessionsRow]:
    """A function that stores a moment of the role."""

    def store_moment(moment: datetime) -> EndedSessionsRow:
        row = EndedSessionsRow(role.arn, moment, "demo", moment + timedelta(hours=12))
        with write_transaction(engine) as connection:
            increment_revision(connection)
            return store_ended_sessions(connection, row)

    return store_moment
