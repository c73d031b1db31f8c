"""The files of a SQLite database belong to the service's account alone."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from worker.base.database_engine import create_database_engine, write_transaction
from worker.cli.database import migrate
from worker.doctor.doctor_command import doctor


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The path of the database that VALETKEY_DATABASE_URL names; it does not exist.

    Files get the umask of a typical shell.
    """
    path = tmp_path / "new" / "folder" / "valetkey.db"
    monkeypatch.setenv("VALETKEY_DATABASE_URL", f"sqlite:///{path}")
    before = os.umask(0o022)
    yield path
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def run_migrate() -> Result:
    return CliRunner().invoke(migrate, catch_exceptions=False)


def database_lines() -> list[str]:
    output = CliRunner().invoke(doctor).stdout
    return [line for line in output.splitlines() if " database " in line]


def test_migrate_creates_a_database_for_its_owner_only(path: Path) -> None:
    assert run_migrate().exit_code == 0
    assert [mode(each) for each in (path, path.parent, path.parents[1])] == [0o600, 0o700, 0o700]


def test_the_files_beside_a_database_are_for_its_owner_only(path: Path) -> None:
    run_migrate()
    engine = create_database_engine(f"sqlite:///{path}")
    with write_transaction(engine) as connection:
        connection.execute(text("CREATE TABLE extra (name text)"))
        files = {each.name: mode(each) for each in path.parent.iterdir()}
    engine.dispose()
    assert files == {"valetkey.db": 0o600, "valetkey.db-wal": 0o600, "valetkey.db-shm": 0o600}


def test_doctor_reports_a_database_that_other_accounts_can_read(path: Path) -> None:
    run_migrate()
    assert len(database_lines()) == 1
    path.chmod(0o644)
    (line,) = database_lines()[1:]
    assert f"warn  database  other accounts have access to {path} (mode 0644)" in line


def test_migrate_takes_the_access_of_other_accounts_away_and_says_so(path: Path) -> None:
    run_migrate()
    wal = path.with_name("valetkey.db-wal")
    wal.touch()
    path.chmod(0o664)
    wal.chmod(0o644)
    output = run_migrate().stdout
    assert f"Other accounts had access to {path} (mode 0664): only its owner has now." in output
    assert f"{wal} (mode 0644)" in output
    assert mode(path) == 0o600
    assert len(database_lines()) == 1


def test_migrate_leaves_the_mode_of_a_file_that_is_no_database(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("a text that is longer than sixteen bytes")
    path.chmod(0o644)
    result = run_migrate()
    assert result.exit_code == 1
    assert "the file is not a SQLite database, or is damaged" in result.stderr
    assert mode(path) == 0o644


def test_migrate_leaves_a_private_database_as_it_is(path: Path) -> None:
    run_migrate()
    path.chmod(0o600)
    assert run_migrate().stdout == "The database is up to date.\n"


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_has_no_file(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = create_database_engine(url)
    engine.connect().close()
    engine.dispose()
    assert list(tmp_path.iterdir()) == []


def test_migrate_names_a_file_where_a_folder_should_be(path: Path) -> None:
    path.parents[1].write_text("")
    result = run_migrate()
    assert result.exit_code == 1
    assert f": {path.parents[1]}" in result.stderr
    assert "Next: correct the path in VALETKEY_DATABASE_URL" in result.stderr
