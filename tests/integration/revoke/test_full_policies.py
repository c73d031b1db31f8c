"""Revocations for which a bucket's policy has no room, and those of others beside them."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import delete

from models import Denial, Revocation
from tests.integration.revoke.conftest import KEY, OTHER_KEY, Links, check
from tests.support.builders.messages import grant_message
from tests.support.s3.http_requests import status
from worker.base.database_engine import write_transaction
from worker.errors import Malformed
from worker.revoke import kept_statements
from worker.revoke.kept_statements import change_statements, keep_denials

LONG_KEYS = [f"acme/{number:02}{'ä' * 440}" for number in range(25)]  # 22 KB as UTF-8


@pytest.fixture
def message(links: Links) -> dict[str, Any]:
    """A batch whose keys do not fit into a policy."""
    message = grant_message(LONG_KEYS)
    links.issue(message)
    return message


def overwrite_policy(links: Links, *statements: dict[str, Any]) -> None:
    """Let another program write the policy of the bucket."""
    policy = {"Version": "2012-10-17", "Statement": statements}
    links.client.put_bucket_policy(Bucket=links.bucket, Policy=json.dumps(policy))


def test_a_repeated_revocation_that_finds_no_room_forgets_no_earlier_statement(
    links: Links,
) -> None:
    grant, _ = links.grant(KEY, OTHER_KEY)
    links.revoke(grant)
    large = {"Sid": "Large", "Effect": "Deny", "Principal": "*", "Action": "s3:PutObject"}
    overwrite_policy(links, large | {"Resource": f"arn:aws:s3:::{links.bucket}/{'x' * 20_200}"})
    check(links.revoke(grant), 1, "bytes, and S3")
    assert len(links.rows(Denial.sid)) == 1


def insert_first(links: Links, *keys: str) -> None:
    """Insert a copy of the only statement, for other keys, in no policy; its Sid sorts first."""
    [text] = links.rows(Denial.statement)
    resources = [f"arn:aws:s3:::{links.bucket}/{key}" for key in keys]
    statement = json.loads(text[0]) | {"Sid": "A", "Resource": resources}
    links.copy_denial(sid="A", statement=json.dumps(statement), policy_bytes=None)


def test_a_revocation_that_does_not_fit_says_so_and_leaves_no_statement_behind(
    links: Links, message: dict[str, Any]
) -> None:
    links.grant(KEY)  # in the same folder, which is therefore not denied instead
    result = links.run("--batch", message["batch"], "--yes")
    check(result, 1, "bytes, and S3")
    assert "storage still accepts 25 of 25 grants" in result.output
    assert (links.rows(Denial.sid), links.statements()) == ([], [])
    assert links.rows(Revocation.grants) == [(25,)]
    assert links.issue(message)["items"][0]["code"] == "revoked"


def test_a_revocation_that_does_not_fit_hurts_no_revocation_of_another_tenant(
    links: Links, message: dict[str, Any]
) -> None:
    [theirs] = links.grant(OTHER_KEY, tenant="globex")
    links.grant(KEY)
    assert links.revoke(theirs).exit_code == 0
    links.run("--batch", message["batch"], "--yes")
    links.client.delete_bucket_policy(Bucket=links.bucket)
    assert status(theirs) == 200
    keep_denials(links.context)
    assert status(theirs) == 403
    links.clock.forward(seconds=301)
    [fresh] = links.grant(OTHER_KEY, tenant="globex")
    keep_denials(links.context)
    assert status(fresh) == 200


def test_a_statement_that_was_recorded_and_does_not_fit_keeps_out_no_other(links: Links) -> None:
    grant, other = links.grant(KEY, OTHER_KEY)
    links.revoke(grant)
    insert_first(links, *LONG_KEYS)
    links.client.delete_bucket_policy(Bucket=links.bucket)
    keep_denials(links.context)
    assert (status(grant), status(other)) == (403, 200)
    assert dict(links.rows(Denial.sid, Denial.policy_bytes))["A"] is None


def test_a_statement_that_is_in_a_policy_keeps_its_room_when_another_one_is_added(
    links: Links,
) -> None:
    [grant] = links.grant(KEY)
    links.revoke(grant)
    insert_first(links, "x" * 20_200)
    keep_denials(links.context)
    assert status(grant) == 403
    assert dict(links.rows(Denial.sid, Denial.policy_bytes))["A"] is None


def test_a_statement_that_was_changed_under_its_sid_is_restored(links: Links) -> None:
    grant, other = links.grant(KEY, OTHER_KEY)
    links.revoke(grant)
    [ours] = links.statements()
    elsewhere = [f"arn:aws:s3:::{links.bucket}/{OTHER_KEY}"]
    overwrite_policy(links, ours | {"Resource": elsewhere})
    assert (status(grant), status(other)) == (200, 403)
    keep_denials(links.context)
    assert (status(grant), status(other)) == (403, 200)


def interfere(monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]) -> None:
    """Let another process of ours do something after the first change of a policy."""
    calls: list[Any] = []

    def run(*arguments: Any) -> Any:
        calls.append(arguments)
        result = change_statements(*arguments)
        if len(calls) == 1:
            change()
        return result

    monkeypatch.setattr(kept_statements, "change_statements", run)


def test_a_statement_that_is_withdrawn_while_the_upkeep_adds_it_is_removed_again(
    links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    links.revoke(links.grant(KEY)[0])
    links.client.delete_bucket_policy(Bucket=links.bucket)

    def withdraw() -> None:
        with write_transaction(links.engine) as connection:
            connection.execute(delete(Denial))

    interfere(monkeypatch, withdraw)
    keep_denials(links.context)
    assert links.statements() == []


def test_a_statement_that_the_upkeep_overwrites_while_it_is_added_is_added_again(
    links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant, other = links.grant(KEY, OTHER_KEY)
    links.revoke(other)
    links.client.delete_bucket_policy(Bucket=links.bucket)

    def revoke_and_lose() -> None:
        before = links.client.get_bucket_policy(Bucket=links.bucket)["Policy"]
        links.revoke(grant)
        links.client.put_bucket_policy(Bucket=links.bucket, Policy=before)

    interfere(monkeypatch, revoke_and_lose)
    keep_denials(links.context)
    assert (status(grant), status(other)) == (403, 403)


def test_a_statement_that_is_in_the_policy_when_storage_begins_to_refuse_is_removed_later(
    links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant, other = links.grant(KEY, OTHER_KEY)

    def refuse(*_: Any) -> None:
        raise Malformed("storage refuses the change")

    def revoke_and_lose_access() -> None:
        links.revoke(other)
        monkeypatch.setattr(kept_statements, "change_statements", refuse)

    with monkeypatch.context() as patch:
        interfere(patch, revoke_and_lose_access)
        assert (links.revoke(grant).exit_code, status(grant)) == (1, 403)
    monkeypatch.setattr(kept_statements, "change_statements", change_statements)
    links.clock.forward(seconds=301)
    keep_denials(links.context)
    assert (links.statements(), links.rows(Denial.sid)) == ([], [])
