"""The server of examples/production, and its README."""

import re
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import AuthenticationError, ResponseError

from tests.acceptance.conftest import ROOT
from tests.acceptance.production.conftest import PRODUCER
from tests.support.servers.production_redis import (
    ProductionRedis,
    password_of,
    running_production_redis,
)
from worker.devstack.processes import StartFailed

USERS = ("admin", "operator", "worker", PRODUCER)
FOLDER = ROOT / "examples" / "production"
LOOP = re.findall(r"```sh\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)


def test_the_file_has_the_documented_users(admin: Any) -> None:
    assert set(admin.acl_users()) == {"default", *USERS}


@pytest.mark.parametrize("command", [("PING",), ("LPUSH", "valetkey", "{}"), ("INFO",)])
def test_nothing_is_allowed_without_a_login(
    production_redis: ProductionRedis, command: tuple[str, ...]
) -> None:
    anonymous: Any = redis.Redis(port=production_redis.port)
    with anonymous as client, pytest.raises(AuthenticationError):
        client.execute_command(*command)


def test_a_wrong_password_is_refused(production_redis: ProductionRedis) -> None:
    port, password = production_redis.port, password_of("worker")
    with (
        redis.Redis(port=port, username=PRODUCER, password=password) as client,
        pytest.raises(AuthenticationError),
    ):
        client.ping()


def test_there_are_no_databases_besides_the_broker_and_the_result_store(
    producer: Any,
) -> None:
    with pytest.raises(ResponseError, match="DB index is out of range"):
        producer.execute_command("SELECT", "2")


def test_no_message_may_be_larger_than_the_limit(producer: Any, admin: Any) -> None:
    limit = int(admin.config_get("proto-max-bulk-len")["proto-max-bulk-len"])
    assert limit == 64 * 1024**2
    with pytest.raises((redis.ConnectionError, ResponseError)):
        producer.execute_command("LPUSH", "valetkey", b"x" * (limit + 1))


def test_the_server_keeps_its_queue_and_refuses_new_messages_when_full(admin: Any) -> None:
    options = admin.config_get("appendonly", "maxmemory*", "save")
    assert (options["appendonly"], options["maxmemory-policy"]) == ("yes", "noeviction")
    assert int(options["maxmemory"]) > 0


@pytest.mark.parametrize("user", USERS)
def test_the_server_does_not_start_while_a_password_is_missing(tmp_path: Path, user: str) -> None:
    with pytest.raises(StartFailed), running_production_redis(tmp_path, without_password=user):
        pass
    assert "password hash" in (tmp_path / "logs" / "redis.log").read_text()


def test_the_documented_loop_replaces_every_placeholder(tmp_path: Path) -> None:
    (tmp_path / "users.acl").write_text((FOLDER / "users.acl").read_text())
    (loop,) = LOOP
    output = subprocess.run(
        ["/bin/sh", "-c", loop], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    passwords = dict(line.split() for line in output.splitlines())
    users = (tmp_path / "users.acl").read_text()
    assert set(passwords) == set(USERS)
    for user, password in passwords.items():
        assert f"user {user} on #{sha256(password.encode()).hexdigest()} " in users
    assert "SHA256_OF" not in users
