"""A database that cannot be used for now is Transient, and its cause is named by its code."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, event, make_url, text

from tests.support.features import needs
from tests.support.servers.databases import execute_statements, open_engine, url_text
from tests.support.servers.external import PostgresServer, running_postgres_server
from worker.__main__ import main
from worker.base.database_engine import read_transaction, write_transaction
from worker.base.database_errors import READ_ONLY
from worker.errors import Transient

CREATE, INSERT = "CREATE TABLE numbers (number int)", "INSERT INTO numbers VALUES (1)"


def write(engine: Engine, statement: str = INSERT) -> None:
    with write_transaction(engine) as connection:
        connection.execute(text(statement))


def problem(engine: Engine, statement: str = INSERT) -> str:
    """Return what the log says of a statement that fails; check what its producer is told."""
    with pytest.raises(Transient) as caught:
        write(engine, statement)
    assert caught.value.part == "database"
    return str(caught.value)


@pytest.fixture
def postgres(postgres_database: str) -> Iterator[Engine]:
    with open_engine(postgres_database) as engine:
        write(engine, CREATE)
        yield engine


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Engine]:
    with open_engine(f"sqlite:///{tmp_path}/numbers.db") as engine:
        yield engine


def set_read_only(engine: Engine, value: str) -> None:
    name = engine.url.database
    statement = f"ALTER DATABASE {name} SET default_transaction_read_only = {value}"
    execute_statements(engine.url.set(database="postgres"), statement)


def test_a_read_only_server_is_unavailable_until_it_may_be_written_again(postgres: Engine) -> None:
    set_read_only(postgres, "on")
    postgres.dispose()
    assert "the server is read-only" in problem(postgres)
    set_read_only(postgres, "off")
    write(postgres)  # on a new connection: the old one may lead to the old primary


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("40001", "another transaction has locked"),
        ("42501", "its user lacks a permission"),
        ("53100", "the disk is full"),
        ("53200", "the server lacks memory"),
        ("53300", "no free connection"),
        ("57014", "ended the statement"),
        ("57P03", "starting or stopping"),
        ("58030", "the disk of the database fails"),
    ],
)
def test_an_outage_that_the_server_names_by_its_code_is_unavailable(
    postgres: Engine, code: str, words: str
) -> None:
    statement = f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}'; END $$"
    assert words in problem(postgres, statement)


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_a_database_without_its_tables_is_unavailable(
    database: str, request: pytest.FixtureRequest
) -> None:
    engine = request.getfixturevalue(database)
    assert "it has no tables" in problem(engine, "INSERT INTO grants DEFAULT VALUES")


def test_a_full_disk_under_sqlite_is_unavailable(sqlite: Engine) -> None:
    write(sqlite, "CREATE TABLE texts (text)")
    event.listen(sqlite, "connect", lambda each, _: each.execute("PRAGMA max_page_count = 1"))
    sqlite.dispose()
    assert "the disk is full" in problem(sqlite, "INSERT INTO texts VALUES (zeroblob(1000000))")


@pytest.fixture(scope="module")
def standby() -> Iterator[PostgresServer]:
    """A server in recovery, as a standby whose primary is gone."""
    with running_postgres_server() as server:
        server.stop("fast")
        (Path(server._server.pgdata) / "standby.signal").touch()
        server.start()
        yield server


@pytest.fixture
def both_hosts(standby: PostgresServer, postgres_database: str) -> str:
    """The URL of a database that a standby has, which it names first, and a primary."""
    primary = make_url(postgres_database).set(database="postgres")
    hosts = [str(make_url(url).query["host"]) for url in (standby.url, postgres_database)]
    return url_text(primary.update_query_dict({"host": ",".join(hosts), "port": "5432,5432"}))


def test_a_url_of_several_hosts_leads_to_the_one_that_may_be_written(both_hosts: str) -> None:
    with open_engine(both_hosts) as engine:
        write(engine, "CREATE TEMPORARY TABLE numbers (number int)")


def test_a_url_of_several_hosts_may_lead_to_a_standby_if_it_says_so(both_hosts: str) -> None:
    url = make_url(both_hosts).update_query_dict({"target_session_attrs": "any"})
    with open_engine(url_text(url)) as engine:
        assert READ_ONLY.text in problem(engine, CREATE)
        with read_transaction(engine) as connection:
            assert connection.scalar(text("SELECT pg_is_in_recovery()"))


def run_doctor(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("VALETKEY_DATABASE_URL", url)
    return " ".join(CliRunner().invoke(main, ["doctor", "--offline"]).output.split())


@needs("doctor")
def test_doctor_names_all_hosts_if_none_may_be_written(
    standby: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = str(make_url(standby.url).query["host"])
    url = make_url(standby.url).update_query_dict({"host": f"{host},{host}", "port": "5432,5432"})
    shown = run_doctor(url_text(url), monkeypatch)
    assert f"{host}:5432,{host}:5432" in shown
    assert READ_ONLY.text in shown


def test_doctor_says_that_a_server_may_only_be_read(
    migrated_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_engine(migrated_postgres) as engine:
        set_read_only(engine, "on")
    assert READ_ONLY.text in run_doctor(migrated_postgres, monkeypatch)
