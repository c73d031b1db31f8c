"""A committed response stays a response, whatever the broker does afterwards."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from sqlalchemy import Engine, select

from models import Delivery, Manifest
from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import grant_message, tenant_config
from tests.support.crypto.tenants import ENDPOINTS
from tests.support.servers.databases import migrated_file
from tests.support.servers.programs import run_program
from worker.base.database_engine import read_transaction

pytestmark = pytest.mark.slow

PASSWORD = "s3cret"
UNREACHABLE = f"redis://:{PASSWORD}@127.0.0.1:1/0"  # no server may use the port 1
DENIED_USER = "producer"


class Run(NamedTuple):
    """What one run of the task returned, and what it logged."""

    outcome: dict[str, Any]
    log: str


def run_task(message: dict[str, Any], engine: Engine, broker_url: str) -> Run:
    environ = {
        **os.environ,
        "VALETKEY_BROKER_URL": broker_url,
        "VALETKEY_DATABASE_URL": engine.url.render_as_string(hide_password=False),
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
    }
    command = [sys.executable, "-m", "tests.support.servers.task_run"]
    done = run_program(command, input=json.dumps(message), env=environ)
    assert done.returncode == 0, done.stderr
    *log, result = done.stdout.splitlines()
    return Run(json.loads(result), "\n".join([*log, done.stderr]))


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One kind of database is enough: the broker is what fails."""
    return migrated_file(tmp_path / "valetkey.db")


@pytest.fixture(params=["unreachable", "refusing"])
def broken_broker(request: pytest.FixtureRequest, valkey_url: str) -> Iterator[str]:
    """The URL of a broker that refuses connections, or whose user may not write to the queues."""
    if request.param == "unreachable":
        yield UNREACHABLE
        return
    with redis.Redis.from_url(valkey_url) as server:
        rules = ("on", f">{PASSWORD}", "+@all", "%R~*")
        server.execute_command("ACL", "SETUSER", DENIED_USER, *rules)
        yield valkey_url.replace("://", f"://{DENIED_USER}:{PASSWORD}@")
        server.execute_command("ACL", "DELUSER", DENIED_USER)


def test_a_committed_chunk_is_answered_whatever_the_broker_does(
    broken_broker: str, engine: Engine, apply_config: ApplyConfig
) -> None:
    apply_config(tenant_config(endpoints=ENDPOINTS))
    message = grant_message(callback="hook", manifest="acme/results.jsonl.gz")
    run = run_task(message, engine, broken_broker)
    assert (run.outcome["status"], run.outcome["issued"]) == ("issued", 1)
    assert run.log.count("trigger_failed") == 2
    assert PASSWORD not in run.log
    with read_transaction(engine) as connection:  # what the next sweep finds
        for table in (Delivery, Manifest):
            query = select(table).where(table.state == "pending")
            assert len(connection.execute(query).all()) == 1


def test_the_cause_of_a_trigger_that_failed_is_logged(
    engine: Engine, apply_config: ApplyConfig
) -> None:
    apply_config(tenant_config(endpoints=ENDPOINTS))
    run = run_task(grant_message(callback="hook"), engine, UNREACHABLE)
    (line,) = [line for line in run.log.splitlines() if "trigger_failed" in line]
    assert "valetkey.deliver" in line
    assert "connection refused" in line
    assert run.outcome["items"][0]["url"] not in run.log
