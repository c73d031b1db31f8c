"""`revoke --end-sessions` on a server that enforces aws:TokenIssueTime."""

import json
from datetime import timedelta
from typing import Any

import pytest
from click.testing import CliRunner, Result

from models import Revocation
from tests.integration.revoke.sessions.conftest import RoleSessions
from tests.support.builders.messages import grant_message
from tests.support.s3.http_requests import status
from worker.revoke import proofs, session_revocation
from worker.revoke.revoke_command import revoke
from worker.revoke.role_policies import RolePolicies

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture(autouse=True)
def _settings(
    sessions: RoleSessions, database_url: str, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the command wait for a second: the clocks of this server do not differ."""
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    monkeypatch.setenv("VALETKEY_RESULT_URL", valkey_url)
    monkeypatch.setenv("VALETKEY_STS_ENDPOINT", sessions.role.storage.endpoint)
    monkeypatch.setenv("VALETKEY_IAM_ENDPOINT", sessions.role.storage.endpoint)
    monkeypatch.setattr("worker.clock.now", sessions.clock)
    monkeypatch.setattr(session_revocation, "_AWS_SKEW", timedelta(0))


@pytest.fixture
def undeniable(sessions: RoleSessions) -> None:
    """A bucket whose policy is not changed, so that only the role can end links."""
    sessions.change_profile(provider="r2")


def run(*words: str) -> Result:
    return CliRunner().invoke(revoke, words)


def end_sessions(*words: str) -> Result:
    """Revoke the tenant acme, and end its sessions."""
    return run("--tenant", "acme", "--end-sessions", "--yes", *words)


def as_json(result: Result) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(result.stdout)
    return values


def test_the_plan_counts_the_grants_of_others_that_share_the_role(sessions: RoleSessions) -> None:
    sessions.link()
    sessions.link("globex")
    levers = as_json(run("--tenant", "acme", "--json"))["levers"]
    [lever] = [each for each in levers if each["lever"] == "end_sessions"]
    found = (lever["where"], lever["ends"], lever["others"])
    assert found == (sessions.role.arn, {"acme": 1}, {"globex": 1})


def test_the_plan_says_that_the_lever_has_to_be_chosen(sessions: RoleSessions) -> None:
    sessions.link()
    assert "only with --end-sessions" in run("--tenant", "acme").output
    assert "only with" not in run("--tenant", "acme", "--end-sessions").output


@pytest.mark.parametrize("option", ["--yes", "--end-sessions"])
def test_without_both_options_no_role_is_changed(sessions: RoleSessions, option: str) -> None:
    sessions.link()
    run("--tenant", "acme", option)
    assert (sessions.moment, sessions.stored()) == (None, [])


@pytest.mark.usefixtures("undeniable")
def test_the_sessions_are_ended_recorded_and_proven(sessions: RoleSessions) -> None:
    grant = sessions.link()
    assert status(grant) == 200
    result = end_sessions()
    assert "Proven: storage answered a session from before" in result.output, result.output
    assert (result.exit_code, status(grant)) == (0, 403)
    assert sessions.rows(Revocation.target) == [("acme",)]
    assert sessions.stored() == [sessions.moment]


@pytest.mark.usefixtures("undeniable")
def test_grants_of_others_that_ended_work_when_requested_again(sessions: RoleSessions) -> None:
    sessions.link()
    message = grant_message(["globex/a.pdf"], tenant="globex")
    [before] = sessions.issue(message)["items"]
    end_sessions()
    [after] = sessions.issue(message)["items"]
    assert (status(before), status(after)) == (403, 200)


def test_a_denial_and_the_end_of_sessions_are_proven_each(sessions: RoleSessions) -> None:
    sessions.change_profile(provider="aws")
    sessions.link()
    output = end_sessions().output
    assert "Proven: storage answered a session from before" in output, output


@pytest.mark.usefixtures("undeniable")
def test_sessions_that_storage_still_accepts_are_an_error(
    sessions: RoleSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RolePolicies, "end_sessions", lambda *_: None)
    monkeypatch.setattr(proofs, "_SESSION_SECONDS", 0)
    sessions.link()
    result = end_sessions()
    assert result.exit_code == 1
    assert "Error: storage still answers a session from before" in result.output


@pytest.mark.usefixtures("undeniable")
def test_a_leaked_session_is_ended_by_its_access_key(sessions: RoleSessions) -> None:
    url: str = sessions.link()["url"]
    key = url.partition("X-Amz-Credential=")[2].partition("%2F")[0]
    result = as_json(run("--credentials", key, "--end-sessions", "--yes", "--json"))["result"]
    assert (list(result["ended_sessions"]), result["left"]) == ([sessions.role.arn], 0)


@pytest.mark.usefixtures("undeniable")
def test_a_role_that_may_not_be_changed_is_a_problem_and_its_grants_are_left(
    sessions: RoleSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions.link()
    monkeypatch.setenv("VALETKEY_IAM_ENDPOINT", "http://127.0.0.1:9")
    values = as_json(end_sessions("--json"))["result"]
    assert (values["left"], values["ended_sessions"]) == (1, {})
    assert "IAM does not answer" in values["problems"][0]


def test_grants_that_no_session_signed_are_not_done_halfway(sessions: RoleSessions) -> None:
    sessions.change_profile(role_arn=None)
    sessions.link()
    result = end_sessions()
    assert (result.exit_code, "omit --end-sessions" in result.output) == (1, True)
    assert sessions.rows(Revocation.target) == []
