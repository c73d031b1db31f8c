"""`revoke --end-sessions` on a server that enforces aws:TokenIssueTime."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, select

from models import EndedSessions, Revocation
from tests.integration.conftest import ApplyConfig
from tests.integration.sessions.conftest import Role
from tests.support.builders.messages import Clock, grant_message
from tests.support.builders.services import InProcessService
from worker.aws.role_policies import RolePolicies
from worker.commands.revocation.revoke import revoke
from worker.core.tenants.config import TenantConfig
from worker.db.engine import read_transaction
from worker.usecases.revocation import session_proof, sessions

Revoke = Callable[..., Result]

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def run(
    role: Role,
    database_url: str,
    valkey_url: str,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> Revoke:
    """The command, which waits for a second: the clocks of this server do not differ."""
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    monkeypatch.setenv("VALETKEY_RESULT_URL", valkey_url)
    monkeypatch.setenv("VALETKEY_STS_ENDPOINT", role.storage.endpoint)
    monkeypatch.setenv("VALETKEY_IAM_ENDPOINT", role.storage.endpoint)
    monkeypatch.setattr("worker.clock.now", clock)
    monkeypatch.setattr(sessions, "_AWS_SKEW", timedelta(0))
    return lambda *words: CliRunner().invoke(revoke, list(words))


@pytest.fixture
def undeniable(config: TenantConfig, apply_config: ApplyConfig) -> None:
    """A bucket whose policy is not changed, so that only the role can end links."""
    r2 = replace(config.buckets["demo"], provider="r2")
    apply_config(TenantConfig({"demo": r2}, config.tenants))


def issue(service: InProcessService, tenant: str = "acme") -> Any:
    key = f"{tenant}/a.pdf"
    [grant] = service.issue(grant_message([key], tenant=tenant))["items"]
    return grant


def status(grant: dict[str, Any]) -> int:
    return httpx.get(grant["url"], timeout=60).status_code


def as_json(result: Result) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(result.stdout)
    return values


def session_lever(values: dict[str, Any]) -> dict[str, Any]:
    [lever] = [each for each in values["levers"] if each["lever"] == "end_sessions"]
    return dict(lever)


def test_the_plan_counts_the_grants_of_others_that_share_the_role(
    run: Revoke, service: InProcessService, role: Role
) -> None:
    issue(service)
    issue(service, "globex")
    lever = session_lever(as_json(run("--tenant", "acme", "--json")))
    assert (lever["where"], lever["ends"], lever["others"]) == (
        role.arn,
        {"acme": 1},
        {"globex": 1},
    )


def test_the_plan_says_that_the_lever_has_to_be_chosen(
    run: Revoke, service: InProcessService
) -> None:
    issue(service)
    assert "only with --end-sessions" in run("--tenant", "acme").output
    assert "only with" not in run("--tenant", "acme", "--end-sessions").output


def test_without_the_option_no_role_is_changed(
    run: Revoke, service: InProcessService, role: Role, engine: Engine
) -> None:
    issue(service)
    run("--tenant", "acme", "--yes")
    assert role.sessions_from is None
    with read_transaction(engine) as connection:
        assert connection.scalars(select(EndedSessions.role_arn)).all() == []


def test_without_yes_no_role_is_changed(run: Revoke, service: InProcessService, role: Role) -> None:
    issue(service)
    run("--tenant", "acme", "--end-sessions")
    assert role.sessions_from is None


@pytest.mark.usefixtures("undeniable")
def test_the_sessions_are_ended_recorded_and_proven(
    run: Revoke, service: InProcessService, role: Role, engine: Engine
) -> None:
    grant = issue(service)
    assert status(grant) == 200
    result = run("--tenant", "acme", "--end-sessions", "--yes")
    assert "Proven: storage answered a session from before" in result.output, result.output
    assert (result.exit_code, status(grant)) == (0, 403)
    with read_transaction(engine) as connection:
        stored = connection.scalars(select(EndedSessions.sessions_from)).all()
        assert connection.scalars(select(Revocation.target)).all() == ["acme"]
    assert stored == [role.sessions_from]


@pytest.mark.usefixtures("undeniable")
def test_a_process_signs_links_that_work_afterwards(run: Revoke, service: InProcessService) -> None:
    issue(service)
    run("--tenant", "acme", "--end-sessions", "--yes")
    assert status(issue(service)) == 200


@pytest.mark.usefixtures("undeniable")
def test_grants_of_others_that_ended_work_again_when_they_are_requested_again(
    run: Revoke, service: InProcessService
) -> None:
    issue(service)
    message = grant_message(["globex/a.pdf"], tenant="globex")
    [before] = service.issue(message)["items"]
    run("--tenant", "acme", "--end-sessions", "--yes")
    [after] = service.issue(message)["items"]
    assert (status(before), status(after)) == (403, 200)


def test_a_denial_and_the_end_of_sessions_are_proven_each(
    run: Revoke, service: InProcessService, config: TenantConfig, apply_config: ApplyConfig
) -> None:
    aws = replace(config.buckets["demo"], provider="aws")
    apply_config(TenantConfig({"demo": aws}, config.tenants))
    issue(service)
    output = run("--tenant", "acme", "--end-sessions", "--yes").output
    assert "Proven: storage answered a session from before" in output, output


@pytest.mark.usefixtures("undeniable")
def test_sessions_that_storage_still_accepts_are_an_error(
    run: Revoke, service: InProcessService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RolePolicies, "end_sessions", lambda *_: None)
    monkeypatch.setattr(session_proof, "_PROOF_SECONDS", 0)
    issue(service)
    result = run("--tenant", "acme", "--end-sessions", "--yes")
    assert result.exit_code == 1
    assert "Error: storage still answers a session from before" in result.output


@pytest.mark.usefixtures("undeniable")
def test_a_leaked_session_is_ended_by_its_access_key(
    run: Revoke, service: InProcessService, role: Role
) -> None:
    grant = issue(service)
    key = grant["url"].partition("X-Amz-Credential=")[2].partition("%2F")[0]
    values = as_json(run("--credentials", key, "--end-sessions", "--yes", "--json"))
    assert list(values["result"]["ended_sessions"]) == [role.arn]
    assert values["result"]["left"] == 0


@pytest.mark.usefixtures("undeniable")
def test_a_role_that_may_not_be_changed_is_a_problem_and_its_grants_are_left(
    run: Revoke, service: InProcessService, monkeypatch: pytest.MonkeyPatch
) -> None:
    issue(service)
    monkeypatch.setenv("VALETKEY_IAM_ENDPOINT", "http://127.0.0.1:9")
    values = as_json(run("--tenant", "acme", "--end-sessions", "--yes", "--json"))["result"]
    assert (values["left"], values["ended_sessions"]) == (1, {})
    assert "IAM does not answer" in values["problems"][0]


def test_grants_that_no_session_signed_are_not_done_halfway(
    run: Revoke,
    service: InProcessService,
    config: TenantConfig,
    apply_config: ApplyConfig,
    engine: Engine,
) -> None:
    plain = replace(config.buckets["demo"], role_arn=None)
    apply_config(TenantConfig({"demo": plain}, config.tenants))
    issue(service)
    result = run("--tenant", "acme", "--end-sessions", "--yes")
    assert (result.exit_code, "omit --end-sessions" in result.output) == (1, True)
    with read_transaction(engine) as connection:
        assert connection.scalars(select(Revocation.target)).all() == []
