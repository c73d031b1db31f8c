"""Revocations in `audit whose` and `audit show`."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from tests.integration.revoke.conftest import KEY, OTHER_KEY, Links, check
from worker.audit.show_command import show
from worker.cli.database import operator_account
from worker.revoke.revocations_command import list_revocations
from worker.whose.whose_command import whose

TARGETS = {
    "grant": "{id}",
    "batch": "{batch}",
    "key": f"s3://demo/{KEY}",
    "prefix": "s3://demo/acme/a",
    "tenant": "acme",
}


@pytest.fixture
def ids(links: Links) -> list[str]:
    """The ids of two grants of a batch, one of whose objects is revoked."""
    return [grant["id"] for grant in links.grant(KEY, OTHER_KEY)]


def target_of(kind: str, id_: str) -> str:
    return TARGETS[kind].format(id=id_, batch=id_.partition(".")[0])


def told(command: Any, *words: str) -> str:
    result = CliRunner().invoke(command, list(words))
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


@pytest.mark.parametrize("kind", TARGETS)
def test_a_revoked_grant_is_not_called_alive_without_saying_so(
    kind: str, ids: list[str], links: Links
) -> None:
    links.run(f"--{kind}", target_of(kind, ids[0]), "--yes", "--reason", "case 4711")
    text = told(whose, ids[0])
    assert "alive revoked; if storage still accepts it, until" in text
    assert ": case 4711" in text
    text = told(show, ids[0])
    assert "but it was revoked" in text
    assert f"with {kind}" in text
    assert "case 4711" in told(show, ids[0].partition(".")[0])


@pytest.mark.parametrize("kind", ["grant", "key", "prefix"])
def test_another_grant_of_the_batch_is_not_called_revoked(
    kind: str, ids: list[str], links: Links
) -> None:
    links.run(f"--{kind}", target_of(kind, ids[0]), "--yes")
    for command in (whose, show):
        assert json.loads(told(command, ids[1], "--json"))["revocations"] == []


def test_the_command_that_revokes_is_named(ids: list[str]) -> None:
    assert f"`python -m worker revoke --grant acme/{ids[0]}`" in told(whose, ids[0])


def test_revocations_are_listed_with_who_and_why_and_what_still_denies(links: Links) -> None:
    [grant] = links.grant(KEY)
    links.revoke(grant, "--reason", "case 4711")
    row = json.loads(told(list_revocations, "--json"))
    assert row["revoked_by"] == operator_account()
    assert row["until"] == grant["expires_at"]
    assert [name.rpartition("/")[2] for name in row["statements"]] == [links.bucket]
    found = (row["tenant"], row["reason"], row["kind"], row["target"], row["grants"])
    assert found == ("acme", "case 4711", "grant", grant["id"], 1)


@pytest.mark.usefixtures("links")
def test_revocations_of_an_unknown_tenant_are_refused() -> None:
    result = CliRunner().invoke(list_revocations, ["--tenant", "acmee"])
    check(result, 2, "did you mean 'acme'?")


def test_a_batch_shows_a_revocation_in_the_case_of_its_letters(links: Links) -> None:
    lower, _ = links.grant("acme/a/x", "acme/A/x")
    links.run("--prefix", "s3://demo/acme/A/", "--yes")
    batch = lower["id"].partition(".")[0]
    assert len(json.loads(told(show, batch, "--json"))["revocations"]) == 1
    assert json.loads(told(show, lower["id"], "--json"))["revocations"] == []
