"""The users of examples/production/users.acl, on a real Valkey."""

import re
from typing import Any

import pytest
from redis.exceptions import NoPermissionError

from tests.acceptance.conftest import ROOT
from tests.acceptance.production.conftest import PRODUCER
from tests.support.servers.production_redis import ProductionRedis

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
    ("GET", RESULT),
    ("MGET", RESULT, f"{RESULT}1"),
    ("DEL", RESULT),
]
FORBIDDEN = {
    "read waiting requests": [
        ("LRANGE", "valetkey", "0", "-1"),
        ("LINDEX", "valetkey", "0"),
        ("LLEN", "valetkey"),
        ("GET", "valetkey"),
        ("DUMP", "valetkey"),
        ("SORT", "valetkey"),
        ("MONITOR",),
    ],
    "take, move or delete requests": [
        ("RPOP", "valetkey"),
        ("LPOP", "valetkey"),
        ("BRPOP", "valetkey", "valetkey.bulk", "1"),
        ("LMOVE", "valetkey", "valetkey.bulk", "LEFT", "LEFT"),
        ("LREM", "valetkey", "0", "{}"),
        ("LTRIM", "valetkey", "0", "0"),
        ("DEL", "valetkey"),
        ("UNLINK", "valetkey"),
        ("EXPIRE", "valetkey", "1"),
        ("RENAME", "valetkey", "valetkey.bulk"),
        ("HGETALL", "unacked"),
        ("HDEL", "unacked", "tag"),
        ("ZADD", "unacked_index", "0", "tag"),
    ],
    "overtake other requests, or write elsewhere": [
        ("RPUSH", "valetkey", "{}"),
        ("LPUSH", "valetkey.upkeep", "{}"),
        ("LPUSH", "valetkey.deadletters", "{}"),
        ("LPUSH", "valetkey\x06\x163", "{}"),
        ("LPUSH", "celery", "{}"),
        ("SADD", "_kombu.binding.valetkey", "valetkey\x06\x16\x06\x16elsewhere"),
        ("SMEMBERS", "_kombu.binding.valetkey"),
        ("SET", "billing", "1"),
        ("XADD", "billing", "*", "a", "b"),
    ],
    "find or forge results": [
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("RANDOMKEY",),
        ("DBSIZE",),
        ("PSUBSCRIBE", "*"),
        ("PSUBSCRIBE", "celery-task-meta-*"),
        ("SSUBSCRIBE", RESULT),
        ("PUBSUB", "CHANNELS"),
        ("SET", RESULT, FORGED),
        ("SETEX", RESULT, "900", FORGED),
        ("APPEND", RESULT, " "),
        ("GETDEL", RESULT),
        ("GETEX", RESULT, "EX", "1"),
        ("LPUSH", RESULT, FORGED),
        ("EXPIRE", RESULT, "9000"),
        ("COPY", RESULT, f"{RESULT}1"),
        ("PUBLISH", RESULT, FORGED),
        ("GET", "billing"),
        ("MGET", RESULT, "billing"),
        ("DEL", RESULT, "billing"),
    ],
    "reach workers": [
        ("PUBLISH", "/0.celery.pidbox", "null"),
        ("SUBSCRIBE", "/0.celeryev/worker.heartbeat"),
        ("GET", "valetkey.worker:issue@host"),
        ("SET", "valetkey.worker:issue@host", "{}"),
    ],
    "administer the server": [
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("SWAPDB", "0", "1"),
        ("CONFIG", "GET", "*"),
        ("CONFIG", "SET", "maxmemory", "1"),
        ("ACL", "LIST"),
        ("ACL", "SETUSER", PRODUCER, "allcommands"),
        ("CLIENT", "LIST"),
        ("CLIENT", "KILL", "TYPE", "normal"),
        ("CLIENT", "PAUSE", "1"),
        ("INFO",),
        ("EVAL", "return 1", "0"),
        ("EVALSHA", "0" * 40, "0"),
        ("SCRIPT", "FLUSH"),
        ("FUNCTION", "FLUSH"),
        ("MULTI",),
        ("WATCH", "valetkey"),
        ("SAVE",),
        ("BGREWRITEAOF",),
        ("SHUTDOWN", "NOSAVE"),
        ("REPLICAOF", "127.0.0.1", "1"),
        ("MIGRATE", "127.0.0.1", "1", "valetkey", "0", "1"),
    ],
}
DOCUMENTED_COMMANDS = re.findall(
    r"^redis-cli (.+)$", (ROOT / "docs" / "operating.md").read_text(encoding="utf-8"), re.MULTILINE
)
CASES = [
    pytest.param(command, id=f"{aim}: {' '.join(command[:3])}")
    for aim, commands in FORBIDDEN.items()
    for command in commands
]


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


@pytest.mark.parametrize("command", CASES)
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
