"""The levers of a revocation: denied objects, and the sessions of a role that end."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders.messages import DEMO, POLICY
from worker.errors import Malformed
from worker.revoke.levers import MAX_KEYS, DeniedObjects, Lever, denied_objects, plan_levers
from worker.revoke.revocation_targets import LiveGrant, Target
from worker.revoke.role_policies import older_sessions_policy, read_sessions_from
from worker.rules.tenant_config import Bucket, Tenant, TenantConfig

END = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
TENANT = Target("tenant", "acme")


def grant(object_key: str, number: int = 0, **changes: Any) -> LiveGrant:
    values = LiveGrant("acme", "b", 1, 0, number, "download", "demo", object_key, None, END)
    return values._replace(**changes)


def config(*prefixes: str, **buckets: Bucket) -> TenantConfig:
    policies = {"demo": replace(POLICY, prefixes=prefixes)}
    return TenantConfig({"demo": DEMO, **buckets}, {"acme": Tenant("acme", policies=policies)})


def denials(target: Target, grants: list[LiveGrant], config: TenantConfig) -> list[Lever]:
    return [each for each in plan_levers(target, grants, grants, config) if each.name == "deny"]


def test_a_tenants_prefix_is_denied_only_if_a_grant_is_below_it() -> None:
    found = denied_objects(TENANT, [grant("acme/a"), grant("old/b")], config("acme/", "acme/new/"))
    assert found == DeniedObjects(frozenset({"old/b"}), ("acme/",))


def test_too_many_keys_of_a_tenant_are_denied_by_their_folders() -> None:
    grants = [grant(f"old/{n % 3}/{n}", n) for n in range(MAX_KEYS + 1)]
    found = denied_objects(TENANT, grants, config("acme/"))
    assert found == DeniedObjects(frozenset(), ("old/0/", "old/1/", "old/2/"))


def test_too_many_folders_of_a_tenant_are_denied_by_those_that_contain_them() -> None:
    grants = [grant(f"old/{n}/a", n) for n in range(MAX_KEYS + 1)]
    assert denied_objects(TENANT, grants, config("acme/")).prefixes == ("old/",)


def test_the_whole_bucket_is_not_denied_for_keys_without_a_folder() -> None:
    grants = [grant(f"{n}", n) for n in range(MAX_KEYS + 1)]
    [lever] = denials(TENANT, grants, config("acme/"))
    assert lever.problem == "151 keys do not fit into a bucket's policy: revoke a prefix or tenant"


def test_a_form_with_a_free_name_is_denied_with_all_names() -> None:
    form = grant("acme/in/${filename}", kind="upload")
    found = denied_objects(Target("grant", "b.0"), [form], config())
    assert (found, found.include(form.object_key)) == (DeniedObjects(prefixes=("acme/in/",)), True)


def test_an_object_whose_key_only_looks_like_a_free_name_is_denied_alone() -> None:
    found = denied_objects(Target("grant", "b.0"), [grant("acme/in/${filename}")], config())
    assert found == DeniedObjects(frozenset({"acme/in/${filename}"}))


@given(
    st.lists(st.text("ab/", min_size=1, max_size=6), min_size=1, max_size=400),
    st.sampled_from(["tenant", "batch"]),
    st.sets(st.sampled_from(["a/", "a/b/", "b/"])),
)
def test_every_targeted_grant_is_denied(keys: list[str], kind: Any, prefixes: set[str]) -> None:
    grants = [grant(key, number) for number, key in enumerate(keys)]
    found = denied_objects(Target(kind, "x"), grants, config(*prefixes))
    assert all(found.include(key) for key in keys)


def test_equally_named_buckets_of_two_servers_are_two_buckets() -> None:
    other = replace(DEMO, name="other", endpoint="https://s3.example.com")
    grants = [grant("acme/a"), grant("acme/a", 1, bucket="other")]
    levers = denials(Target("batch", "b"), grants, config("acme/", other=other))
    assert [(lever.where, lever.ends, lever.others) for lever in levers] == [
        ("127.0.0.1:9/valetkey-demo", {"acme": 1}, {}),
        ("s3.example.com/valetkey-demo", {"acme": 1}, {}),
    ]


MOMENT = datetime(2026, 11, 24, 12, tzinfo=UTC)
ROLE, OTHER_ROLE = (f"arn:aws:iam::111122223333:role/{name}" for name in ("a", "b"))
SHARED = replace(DEMO, role_arn=ROLE)
ROLES = TenantConfig(
    {
        "demo": SHARED,
        "copy": replace(SHARED, name="copy", bucket="another"),
        "other": replace(DEMO, name="other", role_arn=OTHER_ROLE),
        "plain": replace(DEMO, name="plain"),
    },
    {"acme": Tenant("acme", policies={"demo": POLICY})},
)


def session_grant(number: int = 0, **changes: Any) -> LiveGrant:
    return grant("acme/a", number, **{"access_key": "ASIA1", **changes})


def session_levers(targeted: list[LiveGrant], *beside: LiveGrant) -> list[Lever]:
    target = Target("tenant", "acme")
    levers = plan_levers(target, targeted, [*targeted, *beside], ROLES)
    return [lever for lever in levers if lever.name == "end_sessions"]


def test_grants_of_all_tenants_and_buckets_end_with_their_role() -> None:
    others = session_grant(1, tenant="globex"), session_grant(2, tenant="initech", bucket="copy")
    [lever] = session_levers([session_grant()], *others)
    assert lever.ends == {"acme": 1}
    assert lever.others == {"globex": 1, "initech": 1}


def test_grants_of_another_role_do_not_end_with_it() -> None:
    [lever] = session_levers([session_grant()], session_grant(1, tenant="globex", bucket="other"))
    assert lever.others == {}


def test_each_role_has_a_lever_of_its_own() -> None:
    levers = session_levers([session_grant(), session_grant(1, bucket="other")])
    assert sorted(lever.where for lever in levers) == [ROLE, OTHER_ROLE]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"bucket": "plain"}, id="a profile without a role"),
        pytest.param({"access_key": "AKIA1"}, id="a long-term key"),
    ],
)
def test_what_no_session_signed_ends_with_none(changes: dict[str, Any]) -> None:
    assert session_levers([session_grant(**changes)]) == []


def test_the_key_of_a_session_is_not_said_to_be_disabled_by_hand() -> None:
    levers = plan_levers(
        Target("credentials", "ASIA1"), [session_grant()], [session_grant()], ROLES
    )
    [lever] = [each for each in levers if each.name == "disable_access_key"]
    assert lever.manual is None
    assert lever.problem == "the key of a session cannot be disabled: end the sessions instead"


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
