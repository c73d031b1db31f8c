"""Revocations in `audit whose` and `audit show`."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from tests.integration.revocation.conftest import KEY, OTHER_KEY, Revoke, issue
from tests.support.builders.services import InProcessService
from worker.commands.audit.other_logs.revocations import list_revocations
from worker.commands.audit.show import show
from worker.commands.audit.whose import whose
from worker.commands.database import operator_account

TARGETS = {
    "grant": "{id}",
    "batch": "{batch}",
    "key": f"s3://demo/{KEY}",
    "prefix": "s3://demo/acme/a",
    "tenant": "acme",
}


@pytest.fixture
def grants(service: InProcessService) -> list[dict[str, Any]]:
    """Two grants of a batch, one of whose objects is revoked."""
    return issue(service, KEY, OTHER_KEY)


def told(command: Any, *words: str) -> str:
    result = CliRunner().invoke(command, list(words))
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


@pytest.mark.parametrize("kind", TARGETS)
def test_a_revoked_grant_is_not_called_alive_without_saying_so(
    kind: str, grants: list[dict[str, Any]], run: Revoke
) -> None:
    id_ = grants[0]["id"]
    target = TARGETS[kind].format(id=id_, batch=id_.partition(".")[0])
    run(f"--{kind}", target, "--yes", "--reason", "case 4711")
    text = told(whose, id_)
    assert "alive revoked; if storage still accepts it, until" in text
    assert ": case 4711" in text
    text = told(show, id_)
    assert "but it was revoked" in text
    assert f"with {kind}" in text
    assert "case 4711" in told(show, id_.partition(".")[0])


@pytest.mark.parametrize("kind", ["grant", "key", "prefix"])
def test_another_grant_of_the_batch_is_not_called_revoked(
    kind: str, grants: list[dict[str, Any]], run: Revoke
) -> None:
    run(f"--{kind}", TARGETS[kind].format(id=grants[0]["id"]), "--yes")
    other = grants[1]["id"]
    assert json.loads(told(whose, other, "--json"))["revocations"] == []
    assert json.loads(told(show, other, "--json"))["revocations"] == []


@pytest.mark.usefixtures("run")
def test_the_command_that_revokes_is_named(grants: list[dict[str, Any]]) -> None:
    assert f"`python -m worker revoke --grant acme/{grants[0]['id']}`" in told(
        whose, grants[0]["id"]
    )


def test_revocations_are_listed_with_who_and_why_and_what_still_denies(
    grants: list[dict[str, Any]], run: Revoke, bucket: str
) -> None:
    id_ = grants[0]["id"]
    run("--grant", id_, "--reason", "case 4711", "--yes")
    [line] = CliRunner().invoke(list_revocations, ["--json"]).stdout.splitlines()
    row = json.loads(line)
    assert row["revoked_by"] == operator_account()
    assert row["until"] == grants[0]["expires_at"]
    assert [name.rpartition("/")[2] for name in row["statements"]] == [bucket]
    assert (row["tenant"], row["reason"], row["kind"], row["target"], row["grants"]) == (
        *("acme", "case 4711", "grant", id_, 1),
    )


@pytest.mark.usefixtures("run")
def test_revocations_of_an_unknown_tenant_are_refused() -> None:
    result = CliRunner().invoke(list_revocations, ["--tenant", "acmee"])
    assert (result.exit_code, "did you mean 'acme'?" in result.output) == (2, True)
