from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from models import EndedSessions
from tests.support.builders.messages import POLICY, Clock, grant_message, tenant_config
from tests.support.builders.services import build_context
from tests.support.s3.doubles import Role
from tests.support.uses.use_service import UseService
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import write_transaction
from worker.dev.embedded_servers import Storage, create_buckets
from worker.ledger.tenant_rows import increment_revision
from worker.revoke.role_policies import POLICY_NAME, RolePolicies, read_sessions_from, role_policies
from worker.revoke.session_revocation import end_sessions, keep_sessions_ended
from worker.revoke.session_rows import EndedSessionsRow, store_ended_sessions
from worker.rules.tenant_config import Bucket, Tenant, TenantConfig

SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
EXTERNAL_ID = "agreed-with-acme"
TRUST: dict[str, Any] = {"Condition": {"StringEquals": {"sts:ExternalId": EXTERNAL_ID}}}


class RoleSessions(UseService):
    """A worker's process that signs links of acme and globex with sessions of one role."""

    role: Role
    profile: Bucket
    config: TenantConfig

    @property
    def roles(self) -> RolePolicies:
        return self.context.use(role_policies)

    @property
    def moment(self) -> datetime | None:
        """The moment in the role's policy of ours."""
        iam = self.role.iam
        try:
            policy = iam.get_role_policy(RoleName=self.role.name, PolicyName=POLICY_NAME)
        except iam.exceptions.NoSuchEntityException:
            return None
        return read_sessions_from(policy["PolicyDocument"])

    def change_profile(self, **changes: Any) -> None:
        demo = replace(self.profile, **changes)
        self.apply(TenantConfig({"demo": demo}, self.config.tenants))

    def tenant_client(self) -> Any:
        """Return a client for calls with the session of acme."""
        return self.context.s3.client(self.profile, "acme", ("acme/",), self.clock())

    def link(self, tenant: str = "acme") -> dict[str, Any]:
        message = grant_message([f"{tenant}/a.pdf"], tenant=tenant)
        [grant] = self.issue(message)["items"]
        return dict(grant)

    def store(self, moment: datetime) -> EndedSessionsRow:
        row = EndedSessionsRow(self.role.arn, moment, "demo", moment + 12 * HOUR)
        with write_transaction(self.engine) as connection:
            increment_revision(connection)
            return store_ended_sessions(connection, row)

    def store_now(self) -> datetime:
        """Store the current second, and return it."""
        return self.store(self.clock().replace(microsecond=0)).sessions_from

    def stored(self) -> list[datetime]:
        return [moment for (moment,) in self.rows(EndedSessions.sessions_from)]

    def end(self, wait: Callable[[float], None] = lambda _: None) -> EndedSessionsRow:
        return end_sessions(self.profile, self.role.arn, "ops", self.context, wait)

    def keep(self) -> int:
        """Run the upkeep; return the number of policies that it removed."""
        return keep_sessions_ended(self.context)["role_policies"]


@pytest.fixture
def sessions(
    engine: Engine, ministack: Storage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RoleSessions]:
    """A role, and a bucket with an object of each tenant, at the time that storage has."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ministack.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ministack.secret_key)
    clock.time = datetime.now(UTC)
    s3, roles = S3Clients(sts_endpoint=ministack.endpoint), RolePolicies(ministack.endpoint)
    sessions = RoleSessions(build_context(engine, s3, clock, created={role_policies: roles}), clock)
    name, client = f"sessions-{uuid4().hex[:12]}", ministack.client()
    create_buckets(client, {name})
    for key in ("acme/a.pdf", "globex/a.pdf"):
        client.put_object(Bucket=name, Key=key, Body=b"content")
    role = sessions.role = Role(ministack, name, **TRUST)
    bucket = Bucket("demo", name, "us-east-1", "path", ministack.endpoint, provider="other")
    access: dict[str, Any] = {"role_arn": role.arn, "external_id": EXTERNAL_ID, "role_seconds": 900}
    sessions.profile = replace(bucket, **access)
    policies = {"demo": replace(POLICY, prefixes=("globex/",))}
    globex = Tenant("globex", trust="queue", policies=policies)
    tenants = {**tenant_config().tenants, "globex": globex}
    sessions.config = TenantConfig({"demo": sessions.profile}, tenants)
    sessions.apply(sessions.config)
    yield sessions
    role.delete()
