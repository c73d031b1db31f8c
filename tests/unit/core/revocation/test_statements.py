"""Changes of a bucket's policy beside another process that overwrites it."""

import json
from typing import Any

import pytest

from worker.aws.bucket_policies import change_statements
from worker.errors import Transient

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


def test_statements_are_added_and_removed_in_one_change() -> None:
    client = Policies(0, {"Sid": "Old"}, {"Sid": "Theirs"})
    change_statements(client, "b", [OURS], ["Old"])
    assert client.sids == ["Theirs", "Ours"]
