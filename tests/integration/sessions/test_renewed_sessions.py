"""Sessions that a worker's process drops once their role's sessions are ended."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import ConfigChange, EndedSessions
from tests.integration.conftest import ApplyConfig
from tests.integration.sessions.conftest import Role
from tests.support.builders.messages import Clock, grant_message
from tests.support.builders.services import InProcessService
from worker.core.apply.diff import diff_config
from worker.core.kinds.role_session import RoleSession
from worker.core.tenants.config import Bucket, TenantConfig
from worker.db.engine import read_transaction
from worker.db.revocation.ended_sessions import EndedSessionsRow
from worker.errors import Malformed, Transient
from worker.usecases.revocation.sessions import end_sessions

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
Store = Callable[[datetime], EndedSessionsRow]


def token(service: InProcessService) -> str:
    """Return the session token in a new link."""
    [grant] = service.issue(grant_message(["acme/a.pdf"]))["items"]
    url: str = grant["url"]
    return url.partition("X-Amz-Security-Token=")[2].partition("&")[0]


def issue_time(service: InProcessService, profile: Bucket, now: datetime) -> datetime:
    """Return the time at which STS issued the session that signs now."""
    credentials = service.context.s3.credentials(profile, "acme", ("acme/",), now, HOUR / 60)
    assert credentials.expires_at is not None
    return credentials.expires_at.replace(microsecond=0) - timedelta(seconds=900)


def make_older(service: InProcessService) -> None:
    """Let the process take its sessions for ones that were issued ten seconds earlier."""
    for entry in service.context.s3._credentials._entries.values():
        expires_at = entry._credentials.expires_at
        assert expires_at is not None
        older = expires_at - 10 * SECOND
        entry._credentials = replace(entry._credentials, expires_at=older)


def run(service: InProcessService, profile: Bucket, role: Role) -> EndedSessionsRow:
    return end_sessions(profile, role.arn, "ops", service.context, wait=lambda _: None)


def test_a_process_that_has_a_session_renews_it_before_its_next_grant(
    service: InProcessService, profile: Bucket, clock: Clock, store: Store
) -> None:
    before = token(service)
    make_older(service)
    store(issue_time(service, profile, clock()) + SECOND)
    assert token(service) != before


def test_a_link_that_ended_is_signed_again_by_a_new_session(
    service: InProcessService, profile: Bucket, clock: Clock, store: Store
) -> None:
    message = grant_message(["acme/a.pdf"])
    before = service.issue(message)["items"][0]["url"]
    make_older(service)
    store(issue_time(service, profile, clock()) + SECOND)
    assert service.issue(message)["items"][0]["url"] != before


def test_a_session_from_the_moment_itself_is_kept(
    service: InProcessService, profile: Bucket, clock: Clock, store: Store
) -> None:
    before = token(service)
    store(issue_time(service, profile, clock()))
    assert token(service) == before


def test_nothing_is_signed_by_a_new_session_that_is_still_too_old(
    service: InProcessService, store: Store
) -> None:
    token(service)
    store(datetime.now(UTC).replace(microsecond=0) + HOUR)
    with pytest.raises(Transient, match="the sessions of the role are being ended"):
        token(service)


def test_an_ended_session_that_cannot_be_renewed_does_not_sign(
    service: InProcessService, profile: Bucket, clock: Clock, store: Store, role: Role
) -> None:
    token(service)
    store(issue_time(service, profile, clock()) + SECOND)
    role.iam.delete_role_policy(RoleName=role.name, PolicyName="s3")
    role.iam.delete_role(RoleName=role.name)
    try:
        refusal = service.issue(grant_message(["acme/a.pdf"]))["refusal"]
        assert refusal["code"] == "bucket_unusable"
    finally:
        role.iam.create_role(RoleName=role.name, AssumeRolePolicyDocument="{}")


def test_apply_keeps_the_moment_for_all_profiles_of_the_role(
    service: InProcessService, config: TenantConfig, apply_config: ApplyConfig, store: Store
) -> None:
    moment = store(datetime.now(UTC).replace(microsecond=0)).sessions_from
    copy = replace(config.buckets["demo"], name="copy")
    apply_config(TenantConfig({"copy": copy}, {}))
    apply_config(TenantConfig({**config.buckets, "copy": copy}, config.tenants))
    buckets = service.context.config.current().buckets
    assert {bucket.sessions_from for bucket in buckets.values()} == {moment}


def test_the_moment_is_no_difference_to_the_file(
    service: InProcessService, config: TenantConfig, store: Store
) -> None:
    store(datetime.now(UTC).replace(microsecond=0))
    assert diff_config(service.context.config.current(), config) == []


def test_the_moment_is_later_than_every_session_that_has_signed(
    service: InProcessService, profile: Bucket, role: Role, clock: Clock
) -> None:
    token(service)
    issued_at = issue_time(service, profile, clock())
    assert run(service, profile, role).sessions_from > issued_at


def test_the_moment_is_stored_before_the_policy_is_put(
    service: InProcessService, profile: Bucket, role: Role, engine: Engine
) -> None:
    seen: list[Any] = []

    def wait(seconds: float) -> None:
        with read_transaction(engine) as connection:
            seen.extend([seconds, connection.scalar(select(EndedSessions.sessions_from))])
        seen.append(role.sessions_from)

    row = end_sessions(profile, role.arn, "ops", service.context, wait)
    assert seen == [5.0, row.sessions_from, None]
    assert role.sessions_from == row.sessions_from


def test_ending_sessions_is_in_the_log_of_changes(
    service: InProcessService, profile: Bucket, role: Role, engine: Engine
) -> None:
    run(service, profile, role)
    path = ConfigChange.path == "buckets.demo.sessions_from"
    with read_transaction(engine) as connection:
        changes = connection.execute(
            select(ConfigChange.changed_by, ConfigChange.command).where(path)
        ).all()
    assert changes == [("ops", "revoke")]


def test_nothing_is_stored_if_iam_refuses(
    service: InProcessService, profile: Bucket, engine: Engine
) -> None:
    with pytest.raises(Malformed):
        end_sessions(profile, "arn:aws:iam::000000000000:role/none", "ops", service.context)
    with read_transaction(engine) as connection:
        assert connection.scalars(select(EndedSessions.role_arn)).all() == []


def test_an_earlier_moment_does_not_replace_a_later_one(store: Store) -> None:
    later = store(datetime(2026, 11, 27, tzinfo=UTC))
    assert store(later.sessions_from - HOUR) == later


def test_sessions_that_differ_in_the_moment_alone_are_one() -> None:
    session = RoleSession("arn:aws:iam::0:role/r", "n", "{}", "eu-west-1")
    assert replace(session, sessions_from=datetime.now(UTC)) == session
