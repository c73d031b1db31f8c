"""The modules that commands import: each second of them is a second before the first answer."""

import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from textwrap import dedent

import pytest

import valetkey
from tests.support.docs.command_lines import ROOT
from tests.support.features import needs
from tests.support.servers.databases import migrated_file
from tests.support.servers.programs import run_program

HEAVY = {
    *("alembic", "boto3", "botocore", "celery", "cryptography", "httpx", "joserfc", "kombu"),
    *("psycopg", "redis", "structlog"),
}
SETTINGS = {
    "VALETKEY_BROKER_URL": "redis://broker.example:6379/0",
    "VALETKEY_S3_ENDPOINT": "https://s3.example.com",
    "VALETKEY_DEVELOPMENT": "true",
    "VALETKEY_SWEEP_SECONDS": "2.5",
    "VALETKEY_CONCURRENCY": "8",
}


def modules_after(program: str, *words: str, **settings: str) -> set[str]:
    """Return the names of all modules that are imported after a program without an error."""
    command = [sys.executable, "-c", f"{program}\nimport sys; print(*sys.modules)", *words]
    result = run_program(command, cwd=ROOT, env=SETTINGS | settings, check=True)
    return set(result.stdout.splitlines()[-1].split())


@pytest.fixture(scope="module")
def modules_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], set[str]]:
    """A function that returns the names of all modules that a command of the worker imports."""
    url = migrated_file(tmp_path_factory.mktemp("startup") / "valetkey.db")
    program = dedent("""
        import click, contextlib, worker.__main__
        with contextlib.suppress(click.ClickException):
            worker.__main__.main(standalone_mode=False)
    """)
    return cache(lambda words: modules_after(program, *words.split(), VALETKEY_DATABASE_URL=url))


@needs("audit")
@pytest.mark.parametrize(
    "words",
    [
        *("audit list", "audit list --json", "audit summary", "audit cancellations"),
        pytest.param("audit whose 0199a000-0000-7000-8000-000000000000.7", marks=needs("whose")),
    ],
)
def test_a_command_that_reads_imports_nothing_heavy(
    modules_of: Callable[[str], set[str]], words: str
) -> None:
    modules = modules_of(words)
    assert "sqlalchemy.dialects.sqlite" in modules
    assert modules & HEAVY == set()


@needs("audit")
def test_a_page_is_printed_without_a_search_for_garbage(tmp_path: Path) -> None:
    url = migrated_file(tmp_path / "valetkey.db")
    program = """
        import atexit, gc, runpy
        searches = []
        gc.callbacks.append(lambda phase, _: searches.append(phase))
        # The first modules may cause one or two; without a threshold there are 140.
        atexit.register(lambda: print(gc.get_freeze_count() > 0, searches.count("start") < 5))
        runpy.run_module("worker", run_name="__main__", alter_sys=True)
    """
    command = [sys.executable, "-c", dedent(program), "audit", "list", "--json"]
    environ = {**SETTINGS, "VALETKEY_DATABASE_URL": url}
    assert run_program(command, cwd=ROOT, env=environ, check=True).stdout == "True True\n"


@pytest.mark.parametrize("words", ["--help", pytest.param("audit --help", marks=needs("audit"))])
def test_help_imports_no_command(modules_of: Callable[[str], set[str]], words: str) -> None:
    assert modules_of(words) & {*HEAVY, "models", "rich"} == set()


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_the_help_of_the_producers_command_line_imports_no_command(option: str) -> None:
    program = "from valetkey.cli.main import main; main(standalone_mode=False)"
    modules = modules_after(program, option)
    assert "valetkey.cli.main" in modules
    assert modules & {*HEAVY, "pydantic", "rich"} == set()


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("click", ("--help",)),
        pytest.param("sqlalchemy", ("audit", "list"), marks=needs("audit")),
    ],
)
def test_ctrl_c_while_modules_are_imported_prints_no_traceback(
    tmp_path: Path, module: str, words: tuple[str, ...]
) -> None:
    (tmp_path / f"{module}.py").write_text("import signal\nprint(1, flush=True)\nsignal.pause()\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "worker", *words],
        cwd=tmp_path,
        env={**SETTINGS, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"  # the import has begun
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 130


def test_a_worker_on_sqlite_loads_neither_celerys_command_line_nor_another_driver() -> None:
    modules = modules_after("import worker.celery_worker, worker.tasks")
    assert {"celery", "botocore", "sqlalchemy.dialects.sqlite"} <= modules
    unused = {"alembic", "celery.bin.celery", "prompt_toolkit", "psycopg", "pyarrow"}
    assert modules & unused == set()


def test_processes_share_what_their_worker_loaded_before_it_forked_them() -> None:
    program = """
        import gc, os
        from botocore.loaders import JSONFileLoader
        from celery.signals import worker_before_create_process
        os.environ["VALETKEY_DATABASE_URL"] = "postgresql://db.example/valetkey"
        import worker.app
        from worker.aws.credentials import create_session
        worker_before_create_process.send(sender=None)
        assert gc.get_freeze_count() > 100_000
        JSONFileLoader.load_file = None  # whatever is read again fails
        create_session(None).client("s3", region_name="us-east-1")
    """
    assert "psycopg" in modules_after(dedent(program))


def test_every_public_name_can_be_imported() -> None:
    names = [name for name in valetkey.__all__ if name not in {"Code", "__version__"}]
    assert [getattr(valetkey, name).__name__ for name in names] == names


def test_all_tables_are_loaded_together() -> None:
    names = {f"models.{path.stem}" for path in (ROOT / "models").glob("*.py")}
    assert names - {"models.__init__", "models.schema"} <= modules_after("import models")
