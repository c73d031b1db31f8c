"""Role sessions and refused roles, on each double of AWS that has an STS."""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.support.builders import services
from tests.support.builders.messages import POLICY, grant_message, tenant_config
from tests.support.s3 import doubles
from tests.support.s3.doubles import ALLOW_ALL, MOTO, ROLE_ANSWERS, TRUST
from tests.support.servers.databases import migrated_file
from worker import clock
from worker.aws.clients import S3Clients
from worker.core.tenants.config import Bucket, TenantConfig
from worker.db import tenants
from worker.db.engine import create_database_engine, write_transaction
from worker.devstack.storage import Storage

SECONDS = 900
ASSUME = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}


class RoleOwner:
    """A server, and a role with access to all of its buckets."""

    def __init__(self, name: str, storage: Storage) -> None:
        self.name = name
        self.storage = storage
        self.role = f"role-{uuid.uuid4().hex}"
        self.keys = storage.access_key, storage.secret_key
        iam = doubles.aws_client(storage, "iam")
        trust = doubles.policy_document(TRUST)
        role = iam.create_role(RoleName=self.role, AssumeRolePolicyDocument=trust)["Role"]
        self.arn: str = role["Arn"]
        document = doubles.policy_document(ALLOW_ALL)
        iam.put_role_policy(RoleName=self.role, PolicyName="s3", PolicyDocument=document)
        if name == MOTO:
            self.keys = doubles.moto_user(storage, self.role, ASSUME)

    def deny(self) -> None:
        """Let nobody assume the role."""
        if self.name == MOTO:
            self.keys = doubles.moto_user(self.storage, f"{self.role}-denied")
            return
        iam = doubles.aws_client(self.storage, "iam")
        iam.delete_role_policy(RoleName=self.role, PolicyName="s3")
        iam.delete_role(RoleName=self.role)


@pytest.fixture(params=ROLE_ANSWERS["a session with an end"])
def owner(request: pytest.FixtureRequest) -> Iterator[RoleOwner]:
    """Each server with an STS in turn."""
    storage = request.getfixturevalue(request.param)
    yield RoleOwner(request.param, storage)
    if request.param == MOTO:
        doubles.check_moto_signatures(storage, enabled=False)


@pytest.fixture
def engine(tmp_path: Any) -> Iterator[Engine]:
    url = migrated_file(tmp_path / "valetkey.db")
    engine = create_database_engine(url)
    yield engine
    engine.dispose()


def request_link(engine: Engine, owner: RoleOwner, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the outcome of a request for one link that is signed by a session of the role."""
    if owner.name == MOTO:
        doubles.check_moto_signatures(owner.storage, enabled=True)
    patch.setenv("AWS_ACCESS_KEY_ID", owner.keys[0])
    patch.setenv("AWS_SECRET_ACCESS_KEY", owner.keys[1])
    profile = Bucket("demo", "sessions", "us-east-1", "path", owner.storage.endpoint)
    bucket = replace(profile, role_arn=owner.arn, role_seconds=SECONDS)
    config = TenantConfig({"demo": bucket}, tenant_config(policies={"demo": POLICY}).tenants)
    with write_transaction(engine) as connection:
        tenants.store_config(connection, TenantConfig(), config, clock.now())
    s3 = S3Clients(sts_endpoint=owner.storage.endpoint)
    grant = {"kind": "download", "bucket": "demo", "expires_in": 3_600}
    return services.build_service(engine, s3, clock.now).issue(grant_message(grant=grant))


def test_a_grant_ends_with_the_session_that_signs_it(
    engine: Engine, owner: RoleOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = clock.now()
    (grant,) = request_link(engine, owner, monkeypatch)["items"]
    assert grant["limited_by"] == "credentials"
    remaining = datetime.fromisoformat(grant["expires_at"]) - begin
    assert timedelta(seconds=SECONDS - 60) < remaining < timedelta(seconds=SECONDS + 60)


def test_a_role_that_denies_is_a_refusal_without_its_name(
    engine: Engine, owner: RoleOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner.deny()
    refusal = request_link(engine, owner, monkeypatch)["refusal"]
    assert (refusal["code"], refusal["field"]) == ("bucket_unusable", "grant.bucket")
    assert owner.role not in refusal["message"]
