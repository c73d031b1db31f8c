"""Each supported release of PostgreSQL, set up with the SQL and the commands of the docs."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import make_url

from models import Batch
from tests.support.builders.messages import grant_message, tenant_config
from tests.support.builders.services import build_service
from tests.support.cli.operator import run_audit
from tests.support.docs.command_lines import ROOT
from tests.support.scope import skip_without
from tests.support.servers.databases import execute_statements, open_engine, url_text
from tests.support.servers.postgres_nodes import PostgresNode, embedded_programs, postgres_nodes
from tools.browser import POSTGRES_16_FOLDER, debian_program
from worker import clock
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import OLDEST_POSTGRES, read_transaction, write_transaction
from worker.base.month_partitions import missing_months
from worker.cli import database
from worker.cli.database import migrate
from worker.errors import Transient

VERSIONS = (15, 16, 17, 18)
PAGE = (ROOT / "docs" / "availability.md").read_text(encoding="utf-8")
PASSWORD = re.compile(r"CREATE ROLE (\w+) LOGIN PASSWORD '([^']+)'")


def programs_of(version: int) -> Path:
    """Return the folder of the programs of a release, or skip the test."""
    if version == VERSIONS[-1]:
        return embedded_programs()
    if version == 16:  # no release of Debian has it
        found = [str(path) for path in POSTGRES_16_FOLDER.glob("*/pginstall/bin/postgres")]
    else:
        found = [debian_program(f"/usr/lib/postgresql/{version}/bin/postgres") or ""]
    if not any(found):
        skip_without(f"the service on PostgreSQL {version}", "make browser")
    return Path(found[0]).parent


@pytest.fixture(params=VERSIONS)
def node(request: pytest.FixtureRequest) -> Iterator[PostgresNode]:
    """A running server of a release, without databases and roles but those of initdb."""
    with postgres_nodes(programs_of(request.param)) as (node,):
        node.initialize()
        node.start()
        assert str(node.value("SHOW server_version")).startswith(f"{request.param}.")
        yield node


def statements_of_page() -> list[str]:
    """Return the statements that the page prints to create roles and the database."""
    (block,) = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    return [statement.strip() for statement in block.split(";") if statement.strip()]


def options_of_page() -> list[str]:
    """Return the options of the command with which the page grants privileges."""
    found = re.findall(r"python -m worker migrate (--grant-to.*?)```", PAGE, re.DOTALL)
    assert len(found) == 1
    return str(found[0]).replace("\\\n", " ").split()


def url_of(node: PostgresNode, role: str) -> str:
    """Return the URL of a role of the page, with the password that it has there."""
    password = dict(PASSWORD.findall("\n".join(statements_of_page())))[role]
    return url_text(make_url(node.url("valetkey", role)).set(password=password))


def test_a_release_issues_audits_and_verifies_with_the_roles_of_the_docs(
    node: PostgresNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    execute_statements(make_url(node.url()), *statements_of_page())
    monkeypatch.setenv("VALETKEY_DATABASE_URL", url_of(node, "valetkey_owner"))
    migrated = CliRunner().invoke(migrate, options_of_page())
    assert migrated.exit_code == 0, migrated.output
    with open_engine(url_of(node, "valetkey_operator")) as engine:
        build_service(engine, S3Clients(), clock.now).apply(tenant_config())
    with open_engine(url_of(node, "valetkey_worker")) as engine:
        service = build_service(engine, S3Clients(), clock.now)
        granted = service.issue(grant_message([f"acme/{number}" for number in range(600)]))
        assert [item.get("code") for item in granted["items"]] == [None] * 600
        with pytest.raises(Transient, match="permission"), write_transaction(engine) as connection:
            connection.exec_driver_sql("DELETE FROM grants")
        with read_transaction(engine) as connection:
            assert missing_months(connection, clock.now()) == []
        assert len(service.rows(Batch.batch_id)) == 1
    monkeypatch.setenv("VALETKEY_DATABASE_URL", url_of(node, "valetkey_auditor"))
    verified = run_audit("verify")
    assert verified.exit_code == 0, verified.output


def test_an_older_release_is_refused_by_migrate(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "OLDEST_POSTGRES", 99)
    monkeypatch.setenv("VALETKEY_DATABASE_URL", postgres_database)
    result = CliRunner().invoke(migrate)
    assert (result.exit_code, "the server is older than PostgreSQL" in result.output) == (1, True)


def test_the_docs_name_the_oldest_and_the_newest_release() -> None:
    assert VERSIONS[0] == OLDEST_POSTGRES
    assert f"PostgreSQL {VERSIONS[0]} to {VERSIONS[-1]}" in PAGE
