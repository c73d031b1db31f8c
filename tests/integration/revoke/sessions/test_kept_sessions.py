"""Policies of ended sessions, which the upkeep keeps on roles and removes."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from tests.integration.revoke.sessions.conftest import HOUR, SECOND, RoleSessions
from worker.revoke.role_policies import RolePolicies, role_policies
from worker.rules.tenant_config import TenantConfig


def test_the_upkeep_puts_the_policy_that_the_command_did_not(sessions: RoleSessions) -> None:
    moment = sessions.store_now()
    sessions.keep()
    assert sessions.moment is None  # the command may still be waiting
    sessions.clock.forward(minutes=1)
    sessions.keep()
    assert sessions.moment == moment


def test_the_policy_is_removed_when_all_sessions_would_have_ended(sessions: RoleSessions) -> None:
    row = sessions.end()
    sessions.clock.time = row.sessions_from + 12 * HOUR - SECOND
    assert sessions.keep() == 0
    assert sessions.moment == row.sessions_from
    sessions.clock.forward(seconds=1)
    assert sessions.keep() == 1
    assert sessions.moment is None
    assert sessions.stored() == []


@pytest.mark.parametrize(
    ("is_away", "minutes", "removed"),
    [
        pytest.param(False, 1, 0, id="kept while no profile has the role"),
        pytest.param(True, 12 * 60, 0, id="kept while IAM is out of reach"),
        pytest.param(False, 12 * 60, 1, id="forgotten when it denies nothing"),
    ],
)
def test_a_moment_whose_policy_cannot_be_changed(
    sessions: RoleSessions, *, is_away: bool, minutes: int, removed: int
) -> None:
    sessions.store_now()
    if is_away:
        away = RolePolicies("http://127.0.0.1:9")
        sessions.context = replace(sessions.context, created={role_policies: away})
    else:
        sessions.apply(TenantConfig())
    sessions.clock.forward(minutes=minutes)
    assert sessions.keep() == removed
    assert len(sessions.stored()) == 1 - removed


def test_a_moment_that_cannot_be_kept_is_logged_once(sessions: RoleSessions) -> None:
    sessions.store_now()
    sessions.apply(TenantConfig())
    sessions.clock.forward(minutes=1)
    with capture_logs() as logs:
        for _ in range(3):
            sessions.keep()
    assert len([each for each in logs if each["event"] == "ended_sessions_left"]) == 1


def test_an_earlier_moment_does_not_replace_a_later_one(sessions: RoleSessions) -> None:
    later = sessions.store(datetime(2026, 11, 27, tzinfo=UTC))
    assert sessions.store(later.sessions_from - HOUR) == later
