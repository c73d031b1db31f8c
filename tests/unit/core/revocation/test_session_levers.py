"""The lever that ends the sessions of a role, and the policy that does it."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.builders.messages import DEMO, POLICY
from worker.core.kinds.role_session import RoleSession
from worker.core.revocation.levers import Lever, plan_levers
from worker.core.revocation.role_policy import older_sessions_policy, read_sessions_from
from worker.core.revocation.targets import LiveGrant, Target
from worker.core.tenants.config import Tenant, TenantConfig
from worker.errors import Malformed

END = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
MOMENT = datetime(2026, 11, 24, 12, tzinfo=UTC)
ROLE, OTHER_ROLE = (f"arn:aws:iam::111122223333:role/{name}" for name in ("a", "b"))
SHARED = replace(DEMO, role_arn=ROLE)
CONFIG = TenantConfig(
    {
        "demo": SHARED,
        "copy": replace(SHARED, name="copy", bucket="another"),
        "other": replace(DEMO, name="other", role_arn=OTHER_ROLE),
        "plain": replace(DEMO, name="plain"),
    },
    {"acme": Tenant("acme", policies={"demo": POLICY})},
)


def grant(number: int = 0, **changes: Any) -> LiveGrant:
    values = LiveGrant("acme", "b", 1, 0, number, "download", "demo", "acme/a", "ASIA1", END)
    return values._replace(**changes)


def session_levers(targeted: list[LiveGrant], *beside: LiveGrant) -> list[Lever]:
    target = Target("tenant", "acme")
    levers = plan_levers(target, targeted, [*targeted, *beside], CONFIG)
    return [lever for lever in levers if lever.name == "end_sessions"]


def test_grants_of_all_tenants_and_buckets_end_with_their_role() -> None:
    others = grant(1, tenant="globex"), grant(2, tenant="initech", bucket="copy")
    [lever] = session_levers([grant()], *others)
    assert lever.ends == {"acme": 1}
    assert lever.others == {"globex": 1, "initech": 1}


def test_grants_of_another_role_do_not_end_with_it() -> None:
    [lever] = session_levers([grant()], grant(1, tenant="globex", bucket="other"))
    assert lever.others == {}


def test_each_role_has_a_lever_of_its_own() -> None:
    levers = session_levers([grant(), grant(1, bucket="other")])
    assert sorted(lever.where for lever in levers) == [ROLE, OTHER_ROLE]


def test_a_profile_without_a_role_has_no_sessions_to_end() -> None:
    assert session_levers([grant(bucket="plain")]) == []


def test_what_a_long_term_key_signed_does_not_end_with_the_role() -> None:
    assert session_levers([grant(access_key="AKIA1")]) == []


def test_the_key_of_a_session_is_not_said_to_be_disabled_by_hand() -> None:
    levers = plan_levers(Target("credentials", "ASIA1"), [grant()], [grant()], CONFIG)
    [lever] = [each for each in levers if each.name == "disable_access_key"]
    assert lever.manual is None
    assert lever.problem == "the key of a session cannot be disabled: end the sessions instead"


def test_the_policy_names_the_moment_that_is_read_from_it() -> None:
    assert read_sessions_from(older_sessions_policy(MOMENT)) == MOMENT


@pytest.mark.parametrize(
    "policy",
    [
        "{",
        "[]",
        {"Statement": []},
        {"Statement": [{"Effect": "Deny"}]},
        {"Statement": [{"Condition": {"DateLessThan": {"aws:TokenIssueTime": "soon"}}}]},
        json.loads(older_sessions_policy(MOMENT).replace("Z", "")),
    ],
)
def test_another_policy_is_not_taken_for_ours(policy: Any) -> None:
    with pytest.raises(Malformed, match="ValetkeyRevokeOlderSessions is not the one"):
        read_sessions_from(policy)


def test_a_session_that_ends_earlier_than_one_from_the_moment_is_older() -> None:
    session = RoleSession(ROLE, "n", "{}", "eu-west-1", seconds=1_800, sessions_from=MOMENT)
    assert session.earliest_end == END


def test_without_a_moment_every_session_may_sign() -> None:
    session = RoleSession(ROLE, "n", "{}", "eu-west-1")
    assert session.earliest_end == datetime.min.replace(tzinfo=UTC)
