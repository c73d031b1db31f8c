import json
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import Malformed, Transient
from worker.revoke.kept_statements import change_statements
from worker.revoke.levers import Denial, DeniedObjects
from worker.revoke.policy_document import (
    MAX_POLICY_BYTES,
    change_policy,
    denial_sid,
    denial_statement,
)
from worker.rules.tenant_config import Bucket

END = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
REVOCATION = "0199a000-0000-7000-8000-000000000000"
SID = denial_sid(REVOCATION, "b")
BUCKET = Bucket("demo", "b", "us-east-1")
OTHER = {"Sid": "Other", "Effect": "Allow", "Principal": "*", "Action": "s3:GetObject"}


def statement(*keys: str, is_aws: bool = True, prefixes: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the statement that denies these keys, by default the key a."""
    objects = DeniedObjects(frozenset(keys or ("a",)), prefixes)
    denial = Denial(
        name="deny",
        where="b",
        ends={},
        others={},
        lapses_at=END,
        profile=BUCKET,
        objects=objects,
        actions=frozenset({"s3:GetObject"}),
        is_aws=is_aws,
    )
    return denial_statement(denial, REVOCATION)


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Id": "theirs", "Statement": list(statements)})


NO_POLICIES = ["", "[]", "{}", '{"Statement": [1]}', '{"Statement": "x"}', "[" * 100_000]
NO_POLICIES.append('{"Statement": [{"Sid": []}]}')


def test_a_sid_has_only_letters_and_digits() -> None:
    assert SID.isalnum()
    assert len(SID) <= 64


def test_two_buckets_of_a_revocation_have_two_sids() -> None:
    sids = {denial_sid("0199a000-0000-7000-8000-000000000000", name) for name in ("a/b", "ab", "b")}
    assert len(sids) == 3


def test_only_presigned_requests_are_denied_and_only_until_the_end() -> None:
    assert statement()["Condition"] == {
        "StringEquals": {"s3:authType": ["REST-QUERY-STRING", "POST"]},
        "DateLessThan": {"aws:CurrentTime": "2026-11-24T12:30:00Z"},
    }
    assert "Condition" not in statement(is_aws=False)


@pytest.mark.parametrize("character", "*?$")
@pytest.mark.parametrize("is_aws", [True, False])
def test_a_character_with_a_meaning_in_policies_stands_for_itself_or_is_a_wildcard(
    character: str, *, is_aws: bool
) -> None:
    expected = f"arn:aws:s3:::b/a${{{character}}}" if is_aws else "arn:aws:s3:::b/a?"
    text = f"a{character}"
    denied = statement(text, is_aws=is_aws, prefixes=(text,))
    assert denied["Resource"] == [expected, f"{expected}*"]


def test_the_statements_of_others_are_kept() -> None:
    changed = json.loads(change_policy(policy(OTHER), [statement()]).policy or "")
    assert (changed["Id"], changed["Statement"]) == ("theirs", [OTHER, statement()])
    restored = change_policy(json.dumps(changed), [], {SID}).policy
    assert json.loads(restored or "") == json.loads(policy(OTHER))


def test_a_single_statement_without_a_list_is_kept() -> None:
    changed = json.loads(
        change_policy(json.dumps({"Statement": OTHER}), [statement()]).policy or ""
    )
    assert changed["Statement"] == [OTHER, statement()]


def test_a_policy_of_our_statements_alone_is_removed() -> None:
    assert change_policy(policy(statement()), [], {SID}).policy is None


def test_bytes_are_counted_as_they_are_sent() -> None:
    change = change_policy(None, [statement(*(f"{n}{'ä' * 400}" for n in range(20)))])
    assert change.unfit == {}
    assert change.size == len((change.policy or "").encode()) < MAX_POLICY_BYTES


def test_a_lone_surrogate_of_others_is_kept() -> None:
    text = r'{"Statement":[{"Sid":"\ud800"}]}'
    changed = change_policy(text, [statement()]).policy or ""
    assert json.loads(changed)["Statement"][0] == {"Sid": "\ud800"}


@pytest.mark.parametrize(
    "changes", [{"Effect": "Allow"}, {"Action": []}, {"Resource": []}, {"Condition": {}}]
)
def test_a_statement_that_was_changed_under_its_sid_is_not_in_force(changes: Any) -> None:
    change = change_policy(policy(statement() | changes), [statement()])
    assert not change.is_done
    assert json.loads(change.policy or "")["Statement"] == [statement()]


def test_a_statement_in_another_spelling_is_in_force() -> None:
    same = statement() | {"Resource": "arn:aws:s3:::b/a", "Action": "s3:GetObject"}
    assert change_policy(policy(same), [statement()]).is_done


@pytest.mark.parametrize("text", NO_POLICIES)
def test_a_policy_that_is_none_is_left_alone(text: str) -> None:
    with pytest.raises(Malformed, match="repair it first"):
        change_policy(text, [statement()])


@given(st.lists(st.sampled_from([SID, "A", "B"]), unique=True))
def test_adding_and_removing_changes_nothing_else(sids: list[str]) -> None:
    others = [{"Sid": sid, "Effect": "Deny"} for sid in sids if sid != SID]
    text = change_policy(policy(*others) if others else None, [statement()]).policy or ""
    left = change_policy(text, [], {SID}).policy
    assert ([] if left is None else json.loads(left)["Statement"]) == others


OURS = {"Sid": "Ours", "Effect": "Deny"}


class Policies:
    """A boto3 client of one bucket. Another process undoes the first changes."""

    def __init__(self, lost: int, *statements: dict[str, Any]) -> None:
        self.policy = json.dumps({"Statement": list(statements)})
        self._lost = lost

    def get_bucket_policy(self, **_: str) -> dict[str, str]:
        return {"Policy": self.policy}

    def put_bucket_policy(self, *, Policy: str, **_: str) -> dict[str, str]:  # noqa: N803 - boto3's own
        self._lost -= 1
        if self._lost < 0:
            self.policy = Policy
        return {}

    @property
    def sids(self) -> list[str]:
        return [each["Sid"] for each in json.loads(self.policy)["Statement"]]


def test_a_change_that_was_lost_is_made_again() -> None:
    client = Policies(2)
    change_statements(client, "b", [OURS])
    assert client.sids == ["Ours"]


def test_a_removal_that_was_lost_is_made_again() -> None:
    client = Policies(2, OURS, {"Sid": "Theirs"})
    change_statements(client, "b", [], ["Ours"])
    assert client.sids == ["Theirs"]


def test_a_change_that_is_always_lost_is_an_error() -> None:
    with pytest.raises(Transient, match="another process"):
        change_statements(Policies(9), "b", [OURS])


class RefusingPolicies(Policies):
    """Storage refuses each policy that has the statement Bad."""

    def put_bucket_policy(self, *, Policy: str, **_: str) -> dict[str, str]:  # noqa: N803 - boto3's own
        if '"Bad"' in Policy:
            response: Any = {"Error": {"Code": "MalformedPolicy"}}
            raise ClientError(response | {"ResponseMetadata": {"HTTPStatusCode": 400}}, "Put")
        return super().put_bucket_policy(Policy=Policy)


def test_a_statement_that_storage_refuses_delays_no_removal_and_no_other() -> None:
    client = RefusingPolicies(0, {"Sid": "Old"}, {"Sid": "Theirs"})
    bad, last = OURS | {"Sid": "Bad"}, OURS | {"Sid": "Last"}
    _, problems = change_statements(client, "b", [OURS, bad, last], ["Old"])
    assert client.sids == ["Theirs", "Ours", "Last"]
    assert list(problems) == ["Bad"]


def test_statements_are_added_and_removed_in_one_change() -> None:
    client = Policies(0, {"Sid": "Old"}, {"Sid": "Theirs"})
    change_statements(client, "b", [OURS], ["Old"])
    assert client.sids == ["Theirs", "Ours"]
