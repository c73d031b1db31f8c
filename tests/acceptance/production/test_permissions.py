"""The server of examples/production, its users, and its README."""

import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from tests.acceptance.conftest import ROOT
from tests.acceptance.production.conftest import (
    PRODUCER,
    ProductionRedis,
    password_of,
    running_production_redis,
)
from tests.support.servers.programs import run_program
from worker.dev.child_processes import StartFailed

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


def test_there_are_no_databases_besides_the_broker_and_the_result_store(producer: Any) -> None:
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


def test_the_server_does_not_start_while_a_password_is_missing(tmp_path: Path) -> None:
    with pytest.raises(StartFailed), running_production_redis(tmp_path, without_password="worker"):
        pass
    assert "password hash" in (tmp_path / "logs" / "redis.log").read_text()


def test_the_documented_loop_replaces_every_placeholder(tmp_path: Path) -> None:
    (tmp_path / "users.acl").write_text((FOLDER / "users.acl").read_text())
    (loop,) = LOOP
    output = run_program(["/bin/sh", "-c", loop], cwd=tmp_path, check=True).stdout
    passwords = dict(line.split() for line in output.splitlines())
    users = (tmp_path / "users.acl").read_text()
    assert set(passwords) == set(USERS)
    for user, password in passwords.items():
        assert f"user {user} on #{sha256(password.encode()).hexdigest()} " in users
    assert "SHA256_OF" not in users


RESULT = "celery-task-meta-0199a000-0000-7000-8000-000000000000.0"
FORGED = '{"status": "SUCCESS", "result": {}}'
# The server runs these for everyone, before a login too.
LOGIN_COMMANDS = {"auth", "hello", "quit", "reset"}

ALLOWED = [
    ("PING",),
    ("SELECT", "1"),
    ("CLIENT", "SETINFO", "LIB-NAME", "redis-py"),
    ("CLIENT", "SETNAME", "billing"),
    ("LPUSH", "valetkey", "{}"),
    ("LPUSH", "valetkey.bulk", "{}"),
    ("LPUSH", "valetkey.waiting:acme", "{}"),
    ("LPUSH", "valetkey.waiting:acme.bulk", "{}"),
    ("LLEN", "valetkey"),
    ("LLEN", "valetkey.waiting:acme.bulk"),
    ("HMGET", "valetkey.lanes", "acme", "!"),
    ("LPOS", "valetkey.bulk", "{}"),
    ("LREM", "valetkey", "1", "{}"),
    ("LREM", "valetkey.waiting:acme", "1", "{}"),
    ("GET", RESULT),
    ("MGET", RESULT, f"{RESULT}1"),
    ("DEL", RESULT),
]
# Other commands are not allowed at all.
FORBIDDEN = [
    ("GET", "valetkey"),
    ("DEL", "valetkey"),
    ("LPUSH", "valetkey.upkeep", "{}"),
    ("LPUSH", "valetkey.waiting:globex", "{}"),
    ("LPUSH", "valetkey.waiting:!probe", "{}"),
    ("LLEN", "valetkey.waiting:globex"),
    ("LREM", "valetkey.upkeep", "1", "{}"),
    ("LREM", "valetkey.waiting:globex", "1", "{}"),
    ("LPOS", "valetkey.deadletters", "{}"),
    ("LPUSH", "valetkey.deadletters", "{}"),
    ("LPUSH", "valetkey\x06\x163", "{}"),
    ("LPUSH", "celery", "{}"),
    ("LPUSH", RESULT, FORGED),
    ("GET", "billing"),
    ("MGET", RESULT, "billing"),
    ("DEL", RESULT, "billing"),
    ("GET", "valetkey.worker:issue@host"),
    ("SUBSCRIBE", "/0.celeryev/worker.heartbeat"),
]
GUIDES = [ROOT / "docs" / "operating.md", *(ROOT / "docs" / "runbooks").glob("*.md")]
DOCUMENTED_COMMANDS = re.findall(
    r"^ *redis-cli (.+)$",
    "".join(page.read_text(encoding="utf-8") for page in GUIDES),
    re.MULTILINE,
)


def allowed_commands(admin: Any, user: str) -> set[str]:
    """Return the commands that a user may run, on whichever keys, as the server itself says."""
    arities: dict[str, int] = {}
    for name, command in admin.command().items():
        subcommands = {line[0].decode(): line[1] for line in command["subcommands"]}
        arities |= subcommands or {name: command["arity"]}
    return {name for name, arity in arities.items() if not is_denied(admin, user, name, abs(arity))}


def is_denied(admin: Any, user: str, name: str, word_count: int) -> bool:
    words = name.split("|")
    words += ["1"] * (word_count - len(words))
    answer = admin.acl_dryrun(user, *words)
    return b"no permissions to run" in answer


@pytest.mark.parametrize("command", ALLOWED, ids=" ".join)
def test_a_producer_may(producer: Any, command: tuple[str, ...]) -> None:
    producer.execute_command(*command)


@pytest.mark.parametrize("command", FORBIDDEN, ids=" ".join)
def test_a_producer_may_not(producer: Any, command: tuple[str, ...]) -> None:
    with pytest.raises(NoPermissionError):
        producer.execute_command(*command)


def test_a_producer_may_wait_for_its_result(producer: Any) -> None:
    with producer.pubsub() as pubsub:
        pubsub.subscribe(RESULT)
        assert pubsub.get_message(timeout=5)["type"] == "subscribe"


def test_a_producer_may_run_no_other_command(admin: Any) -> None:
    allowed = {command[0].lower() for command in ALLOWED} - {"client"}
    allowed |= {"client|setinfo", "client|setname", "subscribe", "unsubscribe"}
    assert allowed_commands(admin, PRODUCER) - LOGIN_COMMANDS == allowed


@pytest.mark.parametrize(
    ("user", "exceptions"), [("worker", {"info"}), ("operator", {"info", "client|list"})]
)
def test_workers_and_operators_do_not_administer_the_server(
    admin: Any, user: str, exceptions: set[str]
) -> None:
    categories = (admin.acl_cat("admin"), admin.acl_cat("dangerous"))
    dangerous = {name for category in categories for name in category}
    assert allowed_commands(admin, user) & dangerous == exceptions


@pytest.mark.parametrize("command", DOCUMENTED_COMMANDS)
def test_an_operator_may_run_the_documented_commands(
    production_redis: ProductionRedis, command: str
) -> None:
    with production_redis.client("operator") as operator:
        operator.execute_command(*command.split())


@pytest.mark.parametrize(
    "command",
    [("GET", RESULT), ("SET", RESULT, FORGED), ("PUBLISH", RESULT, FORGED), ("FLUSHALL",)],
)
def test_an_operator_may_not_touch_results(
    production_redis: ProductionRedis, command: tuple[str, ...]
) -> None:
    with production_redis.client("operator") as operator, pytest.raises(NoPermissionError):
        operator.execute_command(*command)
