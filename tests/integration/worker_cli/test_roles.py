"""A worker's role adds to the audit log, and cannot change it; an auditor's role reads it."""

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, make_url, text

from models import Base
from tests.support.builders.delivery_service import DeliveryService
from tests.support.builders.messages import Clock, grant_message, tenant_config, upload_message
from tests.support.builders.services import InProcessService, build_service
from tests.support.cli.scraping import parse_metrics
from tests.support.servers.databases import open_engine, url_text
from tests.support.uses.reports import stored
from tests.support.uses.settlements import settle
from valetkey.wire.grant_ids import grant_id
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import read_transaction, write_transaction
from worker.base.month_partitions import add_months, add_partition, month_of
from worker.cli.database import migrate
from worker.cli.database_roles import CONFIG_TABLES, grant_privileges
from worker.doctor.database_checks import check_role
from worker.doctor.metrics_command import PARTS, metrics
from worker.errors import Transient
from worker.issue.cleanup import clean_up
from worker.proof.verify.config_watch import ConfigWatch
from worker.proof.verify.verify_command import verify
from worker.uses.settlement import settle_ended_slots
from worker.uses.use_recorder import record_uses

Migrate = Callable[..., Result]


@pytest.fixture
def run(postgres_database: str, monkeypatch: pytest.MonkeyPatch) -> Migrate:
    """Run `migrate` with options, as the owner of the tables."""
    monkeypatch.setenv("VALETKEY_DATABASE_URL", postgres_database)
    return lambda *words: CliRunner().invoke(migrate, list(words))


@pytest.fixture
def owner(run: Migrate, postgres_database: str) -> Iterator[Engine]:
    assert run().exit_code == 0
    with open_engine(postgres_database) as engine:
        yield engine


@pytest.fixture
def role(owner: Engine) -> Iterator[str]:
    """A role without privileges, which may log in."""
    name = f'Rôle "{secrets.token_hex(4)}"'
    quoted = owner.dialect.identifier_preparer.quote_identifier(name)
    with write_transaction(owner) as connection:
        connection.exec_driver_sql(f"CREATE ROLE {quoted} LOGIN")
    yield name
    with write_transaction(owner) as connection:
        connection.exec_driver_sql(f"DROP OWNED BY {quoted}")
        connection.exec_driver_sql(f"DROP ROLE {quoted}")


@pytest.fixture
def as_role(owner: Engine, role: str) -> Iterator[Engine]:
    with open_engine(url_text(make_url(url_text(owner.url)).set(username=role))) as engine:
        yield engine


@pytest.fixture
def service(
    run: Migrate, owner: Engine, role: str, as_role: Engine, monkeypatch: pytest.MonkeyPatch
) -> InProcessService:
    """A worker that connects with the role, and whose config the owner applies."""
    assert run("--grant-to", role).exit_code == 0
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    service, applying = (build_service(each, S3Clients(), Clock()) for each in (as_role, owner))
    monkeypatch.setattr(service, "apply", applying.apply)
    service.apply(tenant_config())
    return service


TAMPERING = (
    "UPDATE grants SET digest = NULL",
    "DELETE FROM grants",
    "TRUNCATE grants",
    "DELETE FROM grants_first",
    "INSERT INTO grants_first SELECT * FROM grants",
    "UPDATE leaves SET hash = ''",
    "DELETE FROM checkpoints",
    "DELETE FROM prunes",
    "INSERT INTO prunes DEFAULT VALUES",
    "INSERT INTO item_edges DEFAULT VALUES",
    "DELETE FROM tree_heads",
    "UPDATE batches SET tenant = 'globex'",
    "DROP TRIGGER append_only ON grants",
    "ALTER TABLE grants DISABLE TRIGGER append_only",
    "ALTER TABLE grants DETACH PARTITION grants_default",
    "DROP TABLE grants_default",
    (
        "CREATE OR REPLACE FUNCTION valetkey_append_only() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN NULL; END $$"
    ),
    "SET session_replication_role = replica",
)


def test_processes_that_grant_at_once_all_succeed(owner: Engine, role: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            list(pool.map(lambda _: grant_privileges(owner, {"--grant-to": role}), range(4)))


def test_a_worker_with_a_role_of_its_own_issues_grants_and_cannot_tamper(
    service: InProcessService, as_role: Engine
) -> None:
    request = grant_message()
    assert service.issue(request)["status"] == "issued"
    assert service.issue(request)["status"] == "issued"  # signed again from the rows
    assert clean_up(service.context)["released"] == 0
    accepted = []
    for statement in TAMPERING:
        try:
            with write_transaction(as_role) as connection:
                connection.exec_driver_sql(statement)
            accepted.append(statement)
        except Transient as error:
            assert "its user lacks a permission" in str(error)  # noqa: PT017
    assert accepted == []


@pytest.mark.parametrize("table", CONFIG_TABLES)
def test_a_worker_cannot_change_the_config(
    service: InProcessService, as_role: Engine, table: str
) -> None:
    assert service.issue(grant_message())["status"] == "issued"
    column = next(iter(Base.metadata.tables[table].columns)).name
    for statement in (
        f"INSERT INTO {table} DEFAULT VALUES",
        f'UPDATE {table} SET "{column}" = NULL',  # noqa: S608 - constants
        f"DELETE FROM {table}",  # noqa: S608 - constants
    ):
        with (
            pytest.raises(Transient, match="lacks a permission"),
            write_transaction(as_role) as connection,
        ):
            connection.exec_driver_sql(statement)


def test_a_worker_with_a_role_of_its_own_delivers_and_settles(service: InProcessService) -> None:
    webhooks = DeliveryService(service)
    webhooks.issue()
    assert webhooks.deliver() == (1, 0)
    upload = upload_message(["acme/a.png"])
    assert service.issue(upload)["status"] == "issued"
    context = service.context
    report = stored(grant_id(upload["batch"], 0), "acme/a.png", context.now())
    record_uses([report], context)
    later = replace(context, now=lambda: context.now() + timedelta(hours=2))
    assert clean_up(later)["released"] == 2
    assert settle_ended_slots(later)["postponed"] == 1  # there is no storage
    settle(service.engine, 2, 0, later.now())
    assert ConfigWatch()(later) == {}


def test_an_operator_with_a_role_of_its_own_applies_and_issues(
    run: Migrate, role: str, as_role: Engine, service: InProcessService
) -> None:
    assert run("--grant-operators-to", role).exit_code == 0
    operator = build_service(as_role, S3Clients(), Clock())
    operator.apply(tenant_config(max_batch=7))
    assert service.issue(grant_message())["status"] == "issued"
    assert run("--grant-to", role).exit_code == 0  # it loses what it was granted before
    with pytest.raises(Transient, match="lacks a permission"):
        operator.apply(tenant_config())


def test_doctor_warns_of_a_role_that_may_change_the_config(
    run: Migrate, role: str, as_role: Engine
) -> None:
    named = {}
    for option in ("--grant-to", "--grant-operators-to"):
        assert run(option, role).exit_code == 0
        with read_transaction(as_role) as connection:
            checks = [check for check in check_role(connection) if check.state == "warn"]
        named[option] = [role in check.message for check in checks]
    assert named == {"--grant-to": [], "--grant-operators-to": [True]}


def test_a_worker_creates_partitions_with_a_role_that_owns_no_table(
    service: InProcessService, as_role: Engine
) -> None:
    month = add_months(month_of(service.context.now()), 4)
    with write_transaction(as_role) as connection:
        assert add_partition(connection, month)


def test_a_role_without_privileges_creates_no_partition(as_role: Engine) -> None:
    with pytest.raises(Transient, match="permission"), write_transaction(as_role) as connection:
        add_partition(connection, 202701)


def test_an_auditor_reads_every_table_and_writes_none(
    run: Migrate, role: str, as_role: Engine
) -> None:
    assert run("--grant-to", role).exit_code == 0  # it loses what it was granted before
    result = run("--grant-read-to", role)
    assert "GRANT SELECT ON" in result.output
    with read_transaction(as_role) as connection:
        assert connection.scalar(text("SELECT count(*) FROM grants")) == 0
    for statement in ("DELETE FROM usage", "INSERT INTO prunes DEFAULT VALUES"):
        with pytest.raises(Transient), write_transaction(as_role) as connection:
            connection.exec_driver_sql(statement)


def test_an_auditor_who_may_only_read_verifies_the_log(
    run: Migrate,
    role: str,
    service: InProcessService,
    as_role: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert service.issue(grant_message())["status"] == "issued"
    assert run("--grant-read-to", role).exit_code == 0
    monkeypatch.setenv("VALETKEY_DATABASE_URL", url_text(as_role.url))
    result = CliRunner().invoke(verify, [])
    assert (result.exit_code, "1 items, 1 chunks" in result.output) == (0, True), result.output


def test_an_auditor_who_may_only_read_prints_all_metrics(
    run: Migrate, role: str, as_role: Engine, broker: str
) -> None:
    url = url_text(as_role.url)
    settings = {"DATABASE_URL": url, "BROKER_URL": broker, "RESULT_URL": broker}
    environ = {f"VALETKEY_{name}": value for name, value in settings.items()}
    refused = CliRunner().invoke(metrics, env=environ)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "Next: " in refused.stderr
    assert run("--grant-read-to", role).exit_code == 0
    result = CliRunner().invoke(metrics, env=environ)
    assert (result.exit_code, result.stderr.startswith("the probe failed: worker")) == (0, True)
    complete = parse_metrics(result.stdout)["valetkey_scrape_complete"]
    assert complete == {(part,): 1 for part in PARTS}


def test_the_privileges_are_printed(run: Migrate, role: str) -> None:
    result = run("--grant-to", role)
    assert "GRANT INSERT ON batches, chunks, refused_chunks, grants" in result.output
    assert role.replace('"', '""') in result.output


def test_privileges_from_elsewhere_are_named(run: Migrate, owner: Engine, role: str) -> None:
    with write_transaction(owner) as connection:
        connection.exec_driver_sql("GRANT DELETE ON leaves TO PUBLIC")
        connection.exec_driver_sql("GRANT INSERT ON tenant_keys TO PUBLIC")
    output = run("--grant-to", role).output
    assert f"{role} keeps DELETE ON leaves" in output
    assert f"{role} keeps INSERT ON tenant_keys" in output
    assert "INSERT ON tenant_keys, from" not in run("--grant-operators-to", role).output


def test_a_role_whose_privileges_cannot_be_limited_is_refused(run: Migrate, owner: Engine) -> None:
    with read_transaction(owner) as connection:
        superuser = connection.scalar(text("SELECT current_user"))
    result = run("--grant-to", superuser)
    assert (result.exit_code, "is a superuser" in result.output) == (2, True)


def test_a_role_that_owns_the_tables_is_refused(run: Migrate, owner: Engine, role: str) -> None:
    quoted = owner.dialect.identifier_preparer.quote_identifier(role)
    with write_transaction(owner) as connection:
        connection.exec_driver_sql(f"ALTER TABLE leaves OWNER TO {quoted}")
    result = run("--grant-to", role)
    assert (result.exit_code, "owns the tables" in result.output) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(("--grant-to", "nobody-here"), "no role 'nobody-here'", id="an unknown role"),
        pytest.param(
            ("--grant-to", "one", "--grant-read-to", "one"), "use one for each", id="one for both"
        ),
    ],
)
def test_roles_of_no_use_are_refused(run: Migrate, words: tuple[str, ...], message: str) -> None:
    result = run(*words)
    assert (result.exit_code, message in result.output) == (2, True)


def test_sqlite_has_no_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALETKEY_DATABASE_URL", "sqlite:///unused.db")
    result = CliRunner().invoke(migrate, ["--grant-to", "worker"])
    assert (result.exit_code, "SQLite has no roles" in result.output) == (2, True)
