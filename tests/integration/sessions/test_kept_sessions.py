"""Policies of ended sessions, which the upkeep keeps on roles and removes."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Engine, select
from structlog.testing import capture_logs

from models import EndedSessions
from tests.integration.conftest import ApplyConfig
from tests.integration.sessions.conftest import Role
from tests.support.builders.messages import Clock
from tests.support.builders.services import InProcessService
from worker.aws.role_policies import RolePolicies
from worker.core.tenants.config import Bucket, TenantConfig
from worker.db.engine import read_transaction
from worker.db.revocation.ended_sessions import EndedSessionsRow
from worker.usecases.revocation.sessions import end_sessions
from worker.usecases.upkeep.ended_sessions import keep_sessions_ended

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
Store = Callable[[datetime], EndedSessionsRow]


def test_the_upkeep_puts_the_policy_that_the_command_did_not(
    service: InProcessService, store: Store, role: Role, clock: Clock
) -> None:
    moment = store(clock().replace(microsecond=0)).sessions_from
    keep_sessions_ended(service.context)
    assert role.sessions_from is None  # the command may still be waiting
    clock.forward(minutes=1)
    keep_sessions_ended(service.context)
    assert role.sessions_from == moment


def test_the_policy_is_removed_when_all_sessions_would_have_ended(
    service: InProcessService, role: Role, profile: Bucket, clock: Clock, engine: Engine
) -> None:
    row = end_sessions(profile, role.arn, "ops", service.context, wait=lambda _: None)
    clock.time = row.sessions_from + 12 * HOUR - SECOND
    assert keep_sessions_ended(service.context)["role_policies"] == 0
    assert role.sessions_from == row.sessions_from
    clock.forward(seconds=1)
    assert keep_sessions_ended(service.context)["role_policies"] == 1
    assert role.sessions_from is None
    with read_transaction(engine) as connection:
        assert connection.scalars(select(EndedSessions.role_arn)).all() == []


def test_a_moment_is_kept_while_no_profile_has_the_role(
    service: InProcessService, store: Store, apply_config: ApplyConfig, clock: Clock, engine: Engine
) -> None:
    store(clock().replace(microsecond=0))
    apply_config(TenantConfig())
    clock.forward(minutes=1)
    assert keep_sessions_ended(service.context)["role_policies"] == 0
    with read_transaction(engine) as connection:
        assert len(connection.scalars(select(EndedSessions.role_arn)).all()) == 1


def test_a_policy_that_cannot_be_removed_is_forgotten_when_it_denies_nothing(
    service: InProcessService, store: Store, apply_config: ApplyConfig, clock: Clock, engine: Engine
) -> None:
    store(clock().replace(microsecond=0))
    apply_config(TenantConfig())
    clock.forward(hours=12)
    assert keep_sessions_ended(service.context)["role_policies"] == 1
    with read_transaction(engine) as connection:
        assert connection.scalars(select(EndedSessions.role_arn)).all() == []


def test_a_moment_is_kept_while_iam_is_out_of_reach(
    service: InProcessService, store: Store, clock: Clock, engine: Engine
) -> None:
    store(clock().replace(microsecond=0))
    away = replace(service.context, roles=RolePolicies("http://127.0.0.1:9"))
    clock.forward(hours=12)
    assert keep_sessions_ended(away)["role_policies"] == 0
    with read_transaction(engine) as connection:
        assert len(connection.scalars(select(EndedSessions.role_arn)).all()) == 1


def test_a_moment_that_cannot_be_kept_is_logged_once(
    service: InProcessService, store: Store, apply_config: ApplyConfig, clock: Clock
) -> None:
    store(clock().replace(microsecond=0))
    apply_config(TenantConfig())
    clock.forward(minutes=1)
    with capture_logs() as logs:
        for _ in range(3):
            keep_sessions_ended(service.context)
    assert len([each for each in logs if each["event"] == "ended_sessions_left"]) == 1
