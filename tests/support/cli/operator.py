"""Helpers for tests of the operator's commands."""

import json
import os
import pty
import shlex
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from tests.support.cli.groups import audit
from worker.base.database_engine import read_transaction
from worker.ledger.tenant_rows import load_config, read_revision
from worker.rules.tenant_config import TenantConfig
from worker.tenants.apply_command import apply
from worker.tenants.config_changes import CHANGES
from worker.tenants.tenants_file import read_tenants_file

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""Marks tests of what does not depend on the database."""

Run = Callable[..., Result]
"""A function that runs a command with words."""


class Operator:
    """Applies tenants files to one database, and reads the config stored there."""

    def __init__(self, engine: Engine, file: Path) -> None:
        self.engine = engine
        self.file = file

    @property
    def database_name(self) -> str:
        return Path(self.engine.url.database or "").name

    def apply(self, text: str, *options: str) -> Result:
        """Apply a text; --yes also allows that no tenant stays."""
        self.file.write_text(text, encoding="utf-8")
        named = ["--replace-all", self.database_name] if "--yes" in options else []
        return CliRunner().invoke(apply, [str(self.file), *options, *named])

    def revert(self, change: int, *options: str) -> Result:
        return CliRunner().invoke(apply, ["--revert", str(change), *options])

    def file_config(self) -> TenantConfig:
        config = read_tenants_file(self.file)
        assert isinstance(config, TenantConfig)
        return config

    def stored_config(self) -> tuple[int, TenantConfig]:
        with read_transaction(self.engine) as connection:
            return read_revision(connection), load_config(connection)

    def change_records(self) -> list[Any]:
        """Return the recorded changes, oldest first."""
        with read_transaction(self.engine) as connection:
            return list(connection.execute(CHANGES))[::-1]


def run_audit(*words: str, **options: Any) -> Result:
    return CliRunner().invoke(audit, words, prog_name="python -m worker audit", **options)


def audit_pages(*words: str) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each page of a list, as its command for the next page continues it."""
    remaining = list(words)
    while remaining:
        result = run_audit(*remaining)
        yield json_rows(result)
        remaining = shlex.split(result.stderr.partition("python -m worker audit ")[2])


def json_lines(result: Result) -> list[dict[str, Any]]:
    """Return the rows that a command printed with --json, whatever its exit code."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def json_rows(result: Result) -> list[dict[str, Any]]:
    """Return the lines that a successful command printed with --json."""
    assert result.exit_code == 0, result.output
    return json_lines(result)


def refusal(result: Result) -> str:
    """Return the error of a command that was used wrongly and printed nothing else, in a line."""
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    return " ".join(result.stderr.split())


def answer_on_terminal(command: Sequence[str], reply: str) -> "subprocess.CompletedProcess[str]":
    """Run a program whose standard input is a terminal, on which the reply is typed."""
    controller, terminal = pty.openpty()
    os.write(controller, f"{reply}\n".encode())
    completed = subprocess.run(command, stdin=terminal, capture_output=True, text=True, check=False)
    os.close(controller)
    os.close(terminal)
    return completed
