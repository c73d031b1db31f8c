"""Revocations for which a bucket's policy has no room, and those of others beside them."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import delete

from models import Denial, Revocation
from tests.integration.revocation.conftest import KEY, OTHER_KEY, Links, check
from tests.support.builders.messages import grant_message
from tests.support.s3.http_requests import status
from worker.aws.bucket_policies import change_statements
from worker.core.tenants.config import TenantConfig
from worker.db.engine import write_transaction
from worker.usecases.revocation import statements
from worker.usecases.upkeep.denials import keep_denials

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
    columns = Denial.__table__.columns.keys()
    [row] = links.rows(*(getattr(Denial, name) for name in columns))
    values = dict(zip(columns, row, strict=True))
    resources = [f"arn:aws:s3:::{links.bucket}/{key}" for key in keys]
    statement = json.loads(values["statement"]) | {"Sid": "A", "Resource": resources}
    copy = {"sid": "A", "statement": json.dumps(statement), "policy_bytes": None}
    links.insert(Denial, **values | copy)


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
    links.grant(OTHER_KEY)  # in the same folder, which is therefore not denied instead
    insert_first(links, "x" * 20_200)
    keep_denials(links.context)
    assert status(grant) == 403
    assert dict(links.rows(Denial.sid, Denial.policy_bytes))["A"] is None


def test_a_folder_in_which_another_tenant_may_have_grants_is_not_denied(
    links: Links, message: dict[str, Any]
) -> None:
    check(links.run("--batch", message["batch"], "--yes"), 1, "bytes, and S3")
    assert links.statements() == []


@pytest.fixture
def own_folder(links: Links) -> None:
    """Let only acme have grants below acme/."""
    globex = replace(links.config.tenants["globex"], policies={})
    links.apply(TenantConfig(links.config.buckets, {**links.config.tenants, "globex": globex}))


@pytest.mark.usefixtures("own_folder")
def test_a_folder_that_is_nobody_elses_is_denied_instead_of_many_long_keys(
    links: Links, message: dict[str, Any]
) -> None:
    links.run("--batch", message["batch"], "--yes")
    [statement] = links.statements()
    assert statement["Resource"] == f"arn:aws:s3:::{links.bucket}/acme/*"


@pytest.mark.usefixtures("own_folder")
def test_a_later_grant_in_a_denied_folder_does_not_bring_a_revoked_one_back(
    links: Links, message: dict[str, Any]
) -> None:
    links.run("--batch", message["batch"], "--yes")
    before = links.statements()
    [later] = links.grant(KEY)
    links.client.delete_bucket_policy(Bucket=links.bucket)
    keep_denials(links.context)
    assert (links.statements(), status(later)) == (before, 403)


@pytest.mark.usefixtures("own_folder")
def test_a_statement_that_another_program_left_no_room_for_denies_a_folder(links: Links) -> None:
    grants = links.grant(*LONG_KEYS[:10])
    links.run("--batch", grants[0]["id"].partition(".")[0], "--yes")
    assert len(links.statements()[0]["Resource"]) == 10
    large = {"Sid": "Large", "Effect": "Deny", "Principal": "*", "Action": "s3:PutObject"}
    overwrite_policy(links, large | {"Resource": f"arn:aws:s3:::{links.bucket}/{'x' * 15_000}"})
    keep_denials(links.context)
    ours = next(each for each in links.statements() if each["Sid"] != "Large")
    assert ours["Resource"] == f"arn:aws:s3:::{links.bucket}/acme/*"


def test_a_statement_that_was_changed_under_its_sid_is_restored(links: Links) -> None:
    grant, other = links.grant(KEY, OTHER_KEY)
    links.revoke(grant)
    [ours] = links.statements()
    elsewhere = [f"arn:aws:s3:::{links.bucket}/{OTHER_KEY}"]
    overwrite_policy(links, ours | {"Resource": elsewhere})
    assert (status(grant), status(other)) == (200, 403)
    keep_denials(links.context)
    assert (status(grant), status(other)) == (403, 200)


@pytest.mark.usefixtures("own_folder")
def test_a_folder_is_not_denied_because_of_a_statement_for_which_there_is_no_room(
    links: Links,
) -> None:
    """What it names is denied by nothing, and another may use it."""
    grants = links.grant(*LONG_KEYS[:10])
    links.run("--batch", grants[0]["id"].partition(".")[0], "--yes")
    [served] = links.grant(KEY)
    insert_first(links, KEY, "x" * 30_000)
    other = grant_message(LONG_KEYS[10:])
    links.issue(other)
    links.run("--batch", other["batch"], "--yes")
    assert status(served) == 200


@pytest.mark.usefixtures("own_folder")
def test_a_folder_with_a_grant_that_outlives_the_statement_denying_it_is_not_denied(
    links: Links, message: dict[str, Any]
) -> None:
    links.revoke(links.grant(KEY)[0])
    links.grant(KEY, grant=message["grant"] | {"expires_in": 900})
    check(links.run("--batch", message["batch"], "--yes"), 1, "bytes, and S3")


def interfere(monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]) -> None:
    """Let another process of ours do something after the first change of a policy."""
    calls: list[Any] = []

    def run(*arguments: Any) -> Any:
        calls.append(arguments)
        result = change_statements(*arguments)
        if len(calls) == 1:
            change()
        return result

    monkeypatch.setattr(statements, "change_statements", run)


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
