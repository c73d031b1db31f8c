"""Services that cannot be used: every command names the cause in the same words."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis
from click.testing import CliRunner, Result
from sqlalchemy import make_url

from tests.support.docs.command_lines import ROOT
from tests.support.fakes.socket_server import answer_http, respond, running_socket_server
from tests.support.servers.databases import migrated_file, url_text
from tests.support.servers.external import PostgresServer, running_postgres_server
from worker.__main__ import main
from worker.dev.embedded_servers import running_valkey
from worker.supervisor import Supervisor

PASSWORD = "hunter2"
DATABASE_COMMANDS: dict[str, Sequence[str]] = {
    "apply": ("examples/tenants.toml", "--dry-run"),
    "audit": ("list",),
    "doctor": ("--offline",),
    "explain": ("examples/message.json",),
    "metrics": (),
    "migrate": (),
    "quota": ("show",),
    "run": ("--only", "upkeep"),
    "webhooks": ("list",),
}
BROKER_COMMANDS: dict[str, Sequence[str]] = {
    "deadletters": ("list",),
    "doctor": ("--offline",),
    "run": ("--only", "upkeep"),
}
REFUSED = "nothing listens at this host and port (connection refused)"
UNRESOLVABLE = "its host name cannot be resolved"


@pytest.fixture(autouse=True)
def usable(valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A usable broker and database, and a `run` that starts no worker."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("VALETKEY_BROKER_URL", valkey_url)
    monkeypatch.setenv("VALETKEY_RESULT_URL", valkey_url)
    database = migrated_file(tmp_path / "usable.db")
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database)
    monkeypatch.setattr(Supervisor, "run", lambda _: 0)
    monkeypatch.setattr("worker.run.configure_logging", lambda _: None)


def invoke(command: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, [command, *arguments])


def check(result: Result, service: str, cause: str, hint: str) -> None:
    """Check the words of a command. Only `run` goes on, if waiting may help."""
    assert re.search(f"cannot use the {service} at .*: {re.escape(cause)}", result.output)
    assert hint in result.output
    assert PASSWORD not in result.output
    assert "Traceback" not in result.output
    assert result.exit_code == (0 if "service_unreachable" in result.output else 1)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A server with a user who needs a password."""
    with running_postgres_server() as server:
        rules = Path(server._server.pgdata) / "pg_hba.conf"
        rules.write_text(f"local all locked scram-sha-256\n{rules.read_text()}")
        with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("CREATE ROLE locked LOGIN PASSWORD 'another'")
            connection.execute("SELECT pg_reload_conf()")
        yield server


DATABASES = {
    "wrong password": ("the server refuses the user or the password", "correct the user and"),
    "no password": ("the server asks for a password, and there is none", "PGPASSWORD"),
    "missing database": ("the server has no such database", "createdb"),
    "missing user": ("the server has no such user", "createuser"),
    "refused port": (REFUSED, "start the server, or correct host and port"),
    "unknown host": (UNRESOLVABLE, "correct the host"),
    "not PostgreSQL": ("what answers is not PostgreSQL", "correct host and port"),
    "no TLS": ("the server has no TLS, and sslmode asks for it", "remove sslmode"),
    "unknown parameter": ("its URL has a parameter", "correct what follows the ?"),
    "missing certificate": ("the file of the certificate authority", "docs/runbooks/service.md"),
    "not SQLite": ("the file is not a SQLite database, or is damaged", "correct the path"),
    "folder": ("the file cannot be opened", "correct the path"),
}


REMOTE = make_url(f"postgresql+psycopg://valetkey:{PASSWORD}@127.0.0.1/valetkey")
# What answers instead of PostgreSQL, and the query of the URL.
ANSWERS = {
    "no TLS": (respond(b"N"), {"sslmode": "require"}),
    "missing certificate": (respond(b"S"), {"sslmode": "verify-full", "sslrootcert": "/none.pem"}),
    "not PostgreSQL": (answer_http, {"sslmode": "disable"}),
}


@contextmanager
def database(case: str, request: pytest.FixtureRequest) -> Iterator[str]:
    if case in ANSWERS:
        answer, query = ANSWERS[case]
        with running_socket_server(answer) as http_url:
            yield url_text(REMOTE.set(port=int(http_url.rpartition(":")[2]), query=query))
        return
    url = make_url(request.getfixturevalue("postgres").url)
    folder: Path = request.getfixturevalue("tmp_path")
    (folder / "text").write_text("not a database" * 100)
    changed = {
        "wrong password": url.set(username="locked", password=PASSWORD),
        "no password": url.set(username="locked"),
        "missing database": url.set(database="nothing"),
        "missing user": url.set(username="nobody_here"),
        "refused port": REMOTE.set(port=1),
        "unknown host": REMOTE.set(host="no-such-host.invalid"),
        "unknown parameter": url.update_query_dict({"colour": PASSWORD}),
        "not SQLite": make_url(f"sqlite:///{folder}/text"),
        "folder": make_url(f"sqlite:///{folder}"),
    }
    yield url_text(changed[case])


TABLES = "it has no tables of valetkey yet", "-m worker migrate"
FILE = (
    "there is no such file",
    "-m worker migrate creates it; if it was there: docs/runbooks/restore.md",
)


@pytest.mark.parametrize("command", sorted(DATABASE_COMMANDS.keys() - {"migrate"}))
@pytest.mark.parametrize(("name", "expected"), [("empty.db", TABLES), ("folder/mistyped.db", FILE)])
def test_a_database_without_tables_or_file_is_to_be_migrated_and_is_not_created(
    command: str,
    name: str,
    expected: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "empty.db").touch()
    monkeypatch.setenv("VALETKEY_DATABASE_URL", f"sqlite:///{tmp_path / name}")
    result = invoke(command, *DATABASE_COMMANDS[command])
    check(result, "database", *expected)
    assert not (tmp_path / "folder").exists()


def test_an_empty_database_of_postgresql_is_to_be_migrated(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALETKEY_DATABASE_URL", postgres_database)
    check(invoke("audit", "list"), "database", *TABLES)


def test_an_audit_does_not_wait_for_ever_for_a_lock(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.proof.verify.log_reader.LOCK_TIMEOUT", 1)
    monkeypatch.setenv("VALETKEY_DATABASE_URL", postgres_database)
    assert invoke("migrate").exit_code == 0
    with psycopg.connect(postgres_database.replace("+psycopg", "")) as other:
        other.execute("LOCK TABLE alembic_version")
        result = invoke("audit", "verify")
    cause = "another transaction has locked what this one needs"
    check(result, "database", cause, "pg_stat_activity")


@contextmanager
def changed_valkey(folder: Path, command: str, *words: str) -> Iterator[str]:
    """Yield the host and port of a server that was given a command."""
    with running_valkey(folder) as server:
        with redis.Redis.from_url(server.url()) as client:
            client.execute_command(command, *words)
        yield f"127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def locked_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("locked")
    with changed_valkey(folder, "CONFIG", "SET", "requirepass", "another") as host:
        yield host


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with changed_valkey(tmp_path_factory.mktemp("replica"), "REPLICAOF", "127.0.0.1", "1") as host:
        yield host


SERVERS = {
    "wrong password": ("the server refuses the user or the password", "correct the user and"),
    "no password": ("the server asks for a password, and the URL has none", "write the user"),
    "wrong number": ("the server has no database of this number", "write a lower number"),
    "refused port": (REFUSED, "start the server, or correct host and port"),
    "unknown host": (UNRESOLVABLE, "correct the host"),
    "not Redis": ("what answers is not Redis or Valkey", "correct host and port"),
    "replica": ("it is a replica, which is read-only", "the address of the primary"),
}


@contextmanager
def server(case: str, request: pytest.FixtureRequest) -> Iterator[str]:
    login = f"operator:{PASSWORD}"
    if case == "not Redis":
        with running_socket_server(answer_http) as http_url:
            yield http_url.replace("http://", f"redis://{login}@")
        return
    host = request.getfixturevalue("replica") if case == "replica" else ""
    if case in {"wrong password", "no password"}:
        host = request.getfixturevalue("locked_valkey")
    yield {
        "wrong password": f"redis://{login}@{host}/0",
        "no password": f"redis://{host}/0",
        "wrong number": request.getfixturevalue("valkey_url").rpartition("/")[0] + "/99",
        "refused port": f"redis://{login}@127.0.0.1:1/0",
        "unknown host": f"redis://{login}@no-such-host.invalid/0",
        "replica": f"redis://{host}/0",
    }[case]


# Each cause, and each command with a cause. `run` alone goes on, where waiting may help.
PAIRS = [
    *(("database", "audit", case) for case in DATABASES),
    *(("database", name, "refused port") for name in DATABASE_COMMANDS if name != "audit"),
    ("database", "run", "not SQLite"),
    *(("broker", "doctor", case) for case in SERVERS),
    ("broker", "deadletters", "refused port"),
    *(("broker", "run", case) for case in ("refused port", "wrong password", "replica")),
    *(("result store", "workers", case) for case in SERVERS if case != "replica"),
    ("result store", "doctor", "refused port"),
    *(("result store", "run", case) for case in ("refused port", "wrong password")),
]
VARIABLES = {"broker": "BROKER_URL", "result store": "RESULT_URL", "database": "DATABASE_URL"}


@pytest.mark.parametrize(("service", "command", "case"), PAIRS)
def test_each_command_says_why_it_cannot_use_a_service(
    service: str,
    command: str,
    case: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_database = service == "database"
    with (database if is_database else server)(case, request) as url:
        monkeypatch.setenv(f"VALETKEY_{VARIABLES[service]}", url)
        commands = DATABASE_COMMANDS if is_database else BROKER_COMMANDS
        result = invoke(command, *commands.get(command, ()))
    check(result, service, *(DATABASES if is_database else SERVERS)[case])
    assert f"(VALETKEY_{VARIABLES[service]})" in result.output
