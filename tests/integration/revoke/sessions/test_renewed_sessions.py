"""Sessions that a worker's process drops once their role's sessions are ended."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from models import ConfigChange
from tests.integration.revoke.sessions.conftest import HOUR, SECOND, RoleSessions
from tests.support.builders.messages import grant_message
from tests.support.s3.doubles import ALLOW_ALL, Role, policy_document
from worker.errors import Malformed, Transient
from worker.revoke.role_policies import POLICY_NAME, RolePolicies
from worker.revoke.session_revocation import end_sessions
from worker.rules.tenant_config import TenantConfig
from worker.tenants.apply_plan import diff_config

MOMENT = datetime(2026, 11, 27, 12, tzinfo=UTC)
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def token(sessions: RoleSessions) -> str:
    url: str = sessions.link()["url"]
    return url.partition("X-Amz-Security-Token=")[2].partition("&")[0]


def issue_time(sessions: RoleSessions) -> datetime:
    """Return the time at which STS issued the session that signs now."""
    s3, now = sessions.context.s3, sessions.clock()
    credentials = s3.credentials(sessions.profile, "acme", ("acme/",), now, HOUR / 60)
    assert credentials.expires_at is not None
    return credentials.expires_at.replace(microsecond=0) - timedelta(seconds=900)


def end_earlier_session(sessions: RoleSessions) -> None:
    """End the session, which the process takes for one that was issued ten seconds earlier."""
    for entry in sessions.context.s3._credentials._entries.values():
        expires_at = entry._credentials.expires_at
        assert expires_at is not None
        older = expires_at - 10 * SECOND
        entry._credentials = replace(entry._credentials, expires_at=older)
    sessions.store(issue_time(sessions) + SECOND)


def test_a_process_renews_an_ended_session_before_its_next_grant(sessions: RoleSessions) -> None:
    before = token(sessions)
    end_earlier_session(sessions)
    assert token(sessions) != before


def test_a_session_from_the_moment_itself_is_kept(sessions: RoleSessions) -> None:
    before = token(sessions)
    sessions.store(issue_time(sessions))
    assert token(sessions) == before


def test_nothing_is_signed_by_a_new_session_that_is_still_too_old(sessions: RoleSessions) -> None:
    token(sessions)
    sessions.store(datetime.now(UTC).replace(microsecond=0) + HOUR)
    with pytest.raises(Transient, match="the sessions of the role are being ended"):
        token(sessions)


def test_an_ended_session_that_cannot_be_renewed_does_not_sign(sessions: RoleSessions) -> None:
    token(sessions)
    sessions.store(issue_time(sessions) + SECOND)
    sessions.role.delete()
    refusal = sessions.issue(grant_message(["acme/a.pdf"]))["refusal"]
    assert refusal["code"] == "bucket_unusable"


def test_apply_keeps_the_moment_for_all_profiles_of_the_role(sessions: RoleSessions) -> None:
    moment, config = sessions.store_now(), sessions.config
    copy = replace(sessions.profile, name="copy")
    sessions.apply(TenantConfig({"copy": copy}, {}))
    sessions.apply(TenantConfig({**config.buckets, "copy": copy}, config.tenants))
    buckets = sessions.context.config.current().buckets
    assert {bucket.sessions_from for bucket in buckets.values()} == {moment}


def test_the_moment_is_no_difference_to_the_file(sessions: RoleSessions) -> None:
    sessions.store_now()
    assert diff_config(sessions.context.config.current(), sessions.config) == []


def test_the_moment_is_later_than_every_session_that_has_signed(sessions: RoleSessions) -> None:
    token(sessions)
    issued_at = issue_time(sessions)
    assert sessions.end().sessions_from > issued_at


def test_the_moment_is_stored_before_the_policy_is_put(sessions: RoleSessions) -> None:
    seen: list[Any] = []
    row = sessions.end(lambda s: seen.extend([s, sessions.stored(), sessions.moment]))
    assert seen == [5.0, [row.sessions_from], None]
    assert sessions.moment == row.sessions_from


def test_ending_sessions_is_in_the_log_of_changes(sessions: RoleSessions) -> None:
    sessions.end()
    changes = sessions.rows(ConfigChange.path, ConfigChange.changed_by, ConfigChange.command)
    assert ("buckets.demo.sessions_from", "ops", "revoke") in changes


def test_nothing_is_stored_if_iam_refuses(sessions: RoleSessions) -> None:
    arn = "arn:aws:iam::000000000000:role/none"
    with pytest.raises(Malformed):
        end_sessions(sessions.profile, arn, "ops", sessions.context)
    assert sessions.stored() == []


def put(sessions: RoleSessions, moment: datetime = MOMENT, arn: str | None = None) -> None:
    sessions.roles.end_sessions(sessions.profile, arn or sessions.role.arn, moment)


def remove(sessions: RoleSessions) -> None:
    sessions.roles.remove(sessions.profile, sessions.role.arn, MOMENT)


def test_the_policy_denies_everything_to_older_sessions(sessions: RoleSessions) -> None:
    put(sessions)
    role = sessions.role
    policy = role.iam.get_role_policy(RoleName=role.name, PolicyName=POLICY_NAME)
    [statement] = policy["PolicyDocument"]["Statement"]
    assert statement == {
        "Effect": "Deny",
        "Action": "*",
        "Resource": "*",
        "Condition": {"DateLessThan": {"aws:TokenIssueTime": "2026-11-27T12:00:00Z"}},
    }


def test_the_state_of_a_role_has_the_clock_of_iam_in_whole_seconds(sessions: RoleSessions) -> None:
    state = sessions.roles.read(sessions.profile, sessions.role.arn)
    assert (state.sessions_from, state.now.microsecond) == (None, 0)


@pytest.mark.parametrize("second", [MOMENT + SECOND, MOMENT - SECOND])
def test_the_latest_moment_wins(sessions: RoleSessions, second: datetime) -> None:
    put(sessions)
    put(sessions, second)
    assert sessions.moment == max(MOMENT, second)


def test_other_policies_of_the_role_stay(sessions: RoleSessions) -> None:
    put(sessions)
    remove(sessions)
    role = sessions.role
    assert role.iam.list_role_policies(RoleName=role.name)["PolicyNames"] == ["s3"]


def test_a_later_moment_of_another_is_not_removed(sessions: RoleSessions) -> None:
    put(sessions, MOMENT + SECOND)
    remove(sessions)
    assert sessions.moment == MOMENT + SECOND


def test_a_policy_that_is_gone_counts_as_removed(sessions: RoleSessions) -> None:
    remove(sessions)
    assert sessions.moment is None


def test_a_policy_of_our_name_that_is_not_ours_is_not_replaced(sessions: RoleSessions) -> None:
    role, policy = sessions.role, policy_document(ALLOW_ALL)
    role.iam.put_role_policy(RoleName=role.name, PolicyName=POLICY_NAME, PolicyDocument=policy)
    with pytest.raises(Malformed, match="is not the one that this service writes"):
        put(sessions)


@pytest.mark.parametrize(("before", "after"), [("000000000000", "111122223333"), ("/", "/no-")])
def test_a_role_of_another_account_or_name_is_refused(
    sessions: RoleSessions, before: str, after: str
) -> None:
    with pytest.raises(Malformed, match="is not in the account"):
        put(sessions, arn=sessions.role.arn.replace(before, after))
    assert sessions.moment is None


def test_an_iam_that_does_not_answer_is_transient(sessions: RoleSessions) -> None:
    with pytest.raises(Transient, match="IAM does not answer: EndpointConnectionError"):
        RolePolicies("http://127.0.0.1:9").read(sessions.profile, sessions.role.arn)


def test_a_role_in_a_path_is_found_by_its_name(sessions: RoleSessions) -> None:
    first = sessions.role
    sessions.role = Role(first.storage, f"{first.name}-p", path="/a/b/")
    sessions.profile = replace(sessions.profile, role_arn=sessions.role.arn)
    put(sessions)
    assert sessions.moment == MOMENT
    sessions.role.delete()
