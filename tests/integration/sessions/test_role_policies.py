"""Our policy on a role of a real IAM: put, merged and removed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.integration.sessions.conftest import Role, statement_document
from worker.aws.role_policies import RolePolicies
from worker.core.revocation.role_policy import POLICY_NAME
from worker.core.tenants.config import Bucket
from worker.errors import Malformed, Transient

MOMENT = datetime(2026, 11, 27, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture
def roles(role: Role) -> RolePolicies:
    return RolePolicies(role.storage.endpoint)


def test_the_policy_denies_everything_to_older_sessions(
    roles: RolePolicies, role: Role, profile: Bucket
) -> None:
    roles.end_sessions(profile, role.arn, MOMENT)
    policy = role.iam.get_role_policy(RoleName=role.name, PolicyName=POLICY_NAME)
    [statement] = policy["PolicyDocument"]["Statement"]
    assert statement == {
        "Effect": "Deny",
        "Action": "*",
        "Resource": "*",
        "Condition": {"DateLessThan": {"aws:TokenIssueTime": "2026-11-27T12:00:00Z"}},
    }


def test_a_role_without_the_policy_has_no_moment(
    roles: RolePolicies, role: Role, profile: Bucket
) -> None:
    assert roles.read(profile, role.arn).sessions_from is None


def test_the_clock_of_iam_has_whole_seconds(
    roles: RolePolicies, role: Role, profile: Bucket
) -> None:
    assert roles.read(profile, role.arn).now.microsecond == 0


@pytest.mark.parametrize("second", [MOMENT + SECOND, MOMENT - SECOND])
def test_the_latest_moment_wins(
    roles: RolePolicies, role: Role, profile: Bucket, second: datetime
) -> None:
    roles.end_sessions(profile, role.arn, MOMENT)
    roles.end_sessions(profile, role.arn, second)
    assert role.sessions_from == max(MOMENT, second)


def test_other_policies_of_the_role_stay(roles: RolePolicies, role: Role, profile: Bucket) -> None:
    roles.end_sessions(profile, role.arn, MOMENT)
    roles.remove(profile, role.arn, MOMENT)
    assert role.iam.list_role_policies(RoleName=role.name)["PolicyNames"] == ["s3"]


def test_a_later_moment_of_another_is_not_removed(
    roles: RolePolicies, role: Role, profile: Bucket
) -> None:
    roles.end_sessions(profile, role.arn, MOMENT + SECOND)
    roles.remove(profile, role.arn, MOMENT)
    assert role.sessions_from == MOMENT + SECOND


def test_a_policy_that_is_gone_counts_as_removed(
    roles: RolePolicies, role: Role, profile: Bucket
) -> None:
    roles.remove(profile, role.arn, MOMENT)
    assert role.sessions_from is None


def test_a_policy_of_our_name_that_is_not_ours_is_not_replaced(
    roles: RolePolicies, role: Role, profile: Bucket
) -> None:
    policy = statement_document(Action="s3:*", Resource="*")
    role.iam.put_role_policy(RoleName=role.name, PolicyName=POLICY_NAME, PolicyDocument=policy)
    with pytest.raises(Malformed, match="is not the one that this service writes"):
        roles.end_sessions(profile, role.arn, MOMENT)


def test_a_role_of_the_same_name_in_another_account_is_not_touched(
    roles: RolePolicies, role: Role, profile: Bucket
) -> None:
    other = role.arn.replace("000000000000", "111122223333")
    with pytest.raises(Malformed, match="is not in the account"):
        roles.end_sessions(profile, other, MOMENT)
    assert role.sessions_from is None


def test_a_role_that_does_not_exist_is_named(roles: RolePolicies, profile: Bucket) -> None:
    with pytest.raises(Malformed, match="is not in the account"):
        roles.end_sessions(profile, "arn:aws:iam::000000000000:role/none", MOMENT)


def test_an_iam_that_does_not_answer_is_transient(role: Role, profile: Bucket) -> None:
    with pytest.raises(Transient, match="IAM does not answer: EndpointConnectionError"):
        RolePolicies("http://127.0.0.1:9").read(profile, role.arn)


def test_a_role_in_a_path_is_found_by_its_name(
    roles: RolePolicies, role: Role, profile: Bucket
) -> None:
    name = f"{role.name}-p"
    created = role.iam.create_role(RoleName=name, Path="/a/b/", AssumeRolePolicyDocument="{}")
    arn = created["Role"]["Arn"]
    roles.end_sessions(replace(profile, role_arn=arn), arn, MOMENT)
    assert Role(arn, role.storage).sessions_from == MOMENT
    role.iam.delete_role_policy(RoleName=name, PolicyName=POLICY_NAME)
    role.iam.delete_role(RoleName=name)
