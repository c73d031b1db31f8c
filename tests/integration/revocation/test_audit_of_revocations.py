"""Revocations in `audit whose` and `audit show`."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from tests.integration.revocation.conftest import KEY, OTHER_KEY, Revoke, issue
from tests.support.builders.services import InProcessService
from worker.commands.audit.show import show
from worker.commands.audit.whose import whose

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
