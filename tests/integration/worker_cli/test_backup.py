import json
import os
import resource
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, text

from tests.support.cli.operator import refusal
from tests.support.servers.databases import migrated_file
from tests.support.servers.programs import run_worker
from worker.backup.backup_commands import backup, restore
from worker.base.database_engine import sqlite_path, write_transaction
from worker.dev.data_folder import service_environment

Command = Callable[..., Result]
COUNT = "SELECT count(*) FROM notes"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return migrated_file(tmp_path / "valetkey.db")


@pytest.fixture
def run_backup(database: str) -> Command:
    """Run `backup` on a database with one row of 1 MB."""
    with closing(sqlite3.connect(database_file(database))) as connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, note)")
        connection.execute("INSERT INTO notes (note) VALUES (zeroblob(1000000))")
        connection.commit()
    return lambda *words: CliRunner().invoke(backup, list(map(str, words)))


def run_restore(*words: object) -> Result:
    return CliRunner().invoke(restore, list(map(str, words)))


def database_file(url: str) -> Path:
    path = sqlite_path(url)
    assert path is not None
    return path


def query(file: Path, statement: str) -> object:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(statement).fetchone()[0]


def test_a_backup_has_what_only_the_write_ahead_log_has(
    run_backup: Command, engine: Engine, tmp_path: Path
) -> None:
    with write_transaction(engine) as connection:
        connection.execute(text("INSERT INTO notes (note) VALUES ('committed')"))
    plain_copy = shutil.copy(str(engine.url.database), tmp_path / "plain.db")
    assert query(Path(plain_copy), COUNT) == 1
    assert run_backup(tmp_path / "copy.db").exit_code == 0
    assert query(tmp_path / "copy.db", COUNT) == 2


def test_a_backup_waits_for_no_writer_and_lacks_what_is_not_committed(
    run_backup: Command, engine: Engine, tmp_path: Path
) -> None:
    with write_transaction(engine) as connection:
        connection.execute(text("INSERT INTO notes (note) VALUES ('uncommitted')"))
        result = run_backup(tmp_path / "copy.db")
    assert result.exit_code == 0, result.output
    assert query(tmp_path / "copy.db", COUNT) == 1


def test_a_backup_reports_its_size_its_rows_and_the_revision_of_its_tables(
    run_backup: Command, engine: Engine, tmp_path: Path
) -> None:
    with write_transaction(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999_later'"))
    file = tmp_path / "copy.db"
    report = json.loads(run_backup(file, "--json").stdout)
    assert report.pop("seconds") > 0
    assert report == {
        "file": str(file),
        "bytes": file.stat().st_size,
        "rows": 2,  # the note, and the revision of the tables
        "revision": "9999_later",
    }


def test_a_backup_is_for_its_owner_only(run_backup: Command, tmp_path: Path) -> None:
    run_backup(tmp_path / "copy.db")
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600


def test_a_backup_replaces_no_file(run_backup: Command, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("kept")
    assert f"{tmp_path / 'copy.db'} exists" in refusal(run_backup(tmp_path / "copy.db"))
    assert (tmp_path / "copy.db").read_text() == "kept"


@pytest.mark.parametrize("command", [backup, restore])
@pytest.mark.parametrize(
    ("file", "problem"),
    [("", "must name a file"), ("-", "must name a file"), ("x" * 300, "File name too long")],
)
def test_a_name_that_no_file_can_have_is_refused(
    command: click.Command,
    file: str,
    problem: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    result = CliRunner().invoke(command, [file])
    assert isinstance(result.exception, SystemExit)
    assert problem in result.stderr


def test_a_restore_into_a_folder_that_cannot_be_created_names_the_cause(
    run_backup: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_backup(tmp_path / "copy.db")
    target = tmp_path / "copy.db" / "folder" / "valetkey.db"
    monkeypatch.setenv("VALETKEY_DATABASE_URL", f"sqlite:///{target}")
    result = run_restore(tmp_path / "copy.db")
    assert (result.exit_code, isinstance(result.exception, SystemExit)) == (1, True)
    assert f"Error: {target} was not written: " in result.stderr


def test_what_was_deleted_before_a_backup_is_in_no_byte_of_it(
    run_backup: Command, engine: Engine, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(str(engine.url.database))) as connection:
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("INSERT INTO notes (note) VALUES (?)", ("ann@example.com" * 2_000,))
        connection.commit()
        connection.execute("DELETE FROM notes WHERE id = 2")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert b"ann@example.com" in Path(str(engine.url.database)).read_bytes()
    run_backup(tmp_path / "copy.db")
    assert b"ann@example.com" not in (tmp_path / "copy.db").read_bytes()


@pytest.mark.parametrize("more", [0, 4_000_000])  # bytes, of which SQLite's cache holds 2 MB
def test_a_backup_that_cannot_be_written_leaves_nothing(
    run_backup: Command, database: str, tmp_path: Path, more: int
) -> None:
    with closing(sqlite3.connect(database_file(database))) as connection:
        connection.execute("INSERT INTO notes (note) VALUES (zeroblob(?))", (more,))
        connection.commit()
    assert run_backup(tmp_path / "whole.db").exit_code == 0
    folder = tmp_path / "backups"
    folder.mkdir()
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (300_000, 300_000))
    environ = service_environment(os.environ, VALETKEY_DATABASE_URL=database)
    completed = run_worker("backup", str(folder / "copy.db"), env=environ, preexec_fn=limit)
    assert completed.returncode == 1
    assert f"Error: {folder / 'copy.db'} was not written" in completed.stderr
    assert list(folder.iterdir()) == []


def test_a_damaged_database_is_not_backed_up(
    run_backup: Command, database: str, tmp_path: Path
) -> None:
    source = database_file(database)
    content = bytearray(source.read_bytes())
    content[4096 * 40 : 4096 * 60] = bytes(4096 * 20)
    source.write_bytes(content)
    result = run_backup(tmp_path / "copy.db")
    assert result.exit_code == 1
    assert "damaged" in result.stderr
    assert not (tmp_path / "copy.db").exists()


def test_a_copy_whose_rows_contradict_its_tables_is_not_kept(
    run_backup: Command, database: str, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(database_file(database))) as connection:
        connection.execute("INSERT INTO notes (note) VALUES (NULL)")
        connection.execute("PRAGMA writable_schema = ON")
        changed = "UPDATE sqlite_schema SET sql = replace(sql, ' note)', ' note NOT NULL)')"
        connection.execute(f"{changed} WHERE name = 'notes'")
        connection.commit()
    result = run_backup(tmp_path / "copy.db")
    assert result.exit_code == 1
    assert "is damaged: NULL value in notes.note" in result.stderr
    assert not (tmp_path / "copy.db").exists()


@pytest.mark.parametrize(("command", "program"), [(backup, "pg_dump"), (restore, "pg_restore")])
def test_on_postgres_the_command_of_postgres_is_named_without_the_password(
    command: object, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql+psycopg://ann:s3cret@db.example.com/valetkey?password=s3cret"
    monkeypatch.setenv("VALETKEY_DATABASE_URL", url)
    text = refusal(CliRunner().invoke(command, ["copy"]))  # type: ignore[arg-type]
    assert f"run `{program} " in text
    assert "--dbname=postgresql://db.example.com" in text
    assert "s3cret" not in text


def test_a_restored_database_has_the_rows_of_the_backup(
    run_backup: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_backup(tmp_path / "copy.db")
    before = (tmp_path / "copy.db").read_bytes()
    target = tmp_path / "new" / "valetkey.db"
    monkeypatch.setenv("VALETKEY_DATABASE_URL", f"sqlite:///{target}")
    result = run_restore(tmp_path / "copy.db")
    assert result.exit_code == 0, result.output
    assert query(target, COUNT) == 1
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert (tmp_path / "copy.db").read_bytes() == before


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_a_restore_beside_a_file_of_the_old_database_is_refused(
    run_backup: Command, database: str, tmp_path: Path, suffix: str
) -> None:
    run_backup(tmp_path / "copy.db")
    source = database_file(database)
    for each in source.parent.glob(f"{source.name}*"):
        each.unlink()
    source.with_name(source.name + suffix).write_text("old")
    assert f"{source}{suffix} exists" in refusal(run_restore(tmp_path / "copy.db"))
    assert source.exists() == (suffix == "")


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_a_raw_copy_with_a_log_of_its_own_is_not_restored_also_by_another_name(
    run_backup: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    run_backup(tmp_path / "copy.db")
    log = tmp_path / f"copy.db{suffix}"
    log.write_bytes(b"transactions")
    (tmp_path / "link.db").symlink_to(tmp_path / "copy.db")
    target = tmp_path / "new" / "valetkey.db"
    monkeypatch.setenv("VALETKEY_DATABASE_URL", f"sqlite:///{target}")
    assert f"{log} exists, so" in refusal(run_restore(tmp_path / "link.db"))
    assert (log.read_bytes(), target.exists()) == (b"transactions", False)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"no database", "not a SQLite database"), (b"", "has no tables of valetkey")],
)
def test_a_file_that_is_no_backup_is_not_restored(
    content: bytes, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "valetkey.db"
    monkeypatch.setenv("VALETKEY_DATABASE_URL", f"sqlite:///{target}")
    (tmp_path / "copy.db").write_bytes(content)
    result = run_restore(tmp_path / "copy.db")
    assert result.exit_code == 1
    assert problem in result.stderr
    assert not target.exists()
