"""Helpers for tests of the operator's commands."""

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from sqlalchemy import Engine

from worker.commands.apply import apply
from worker.core.tenants.config import TenantConfig
from worker.db.audit.changes import ChangeRecord, read_changes
from worker.db.config_store import read_revision
from worker.db.engine import read_transaction
from worker.db.tenants import load_config
from worker.usecases.tenants_file import read_tenants_file


class Operator:
    """Applies tenants files to one database, and reads the config stored there."""

    def __init__(self, engine: Engine, file: Path) -> None:
        self.engine = engine
        self.file = file

    def apply(self, text: str, *options: str) -> Result:
        self.file.write_text(text, encoding="utf-8")
        return CliRunner().invoke(apply, [str(self.file), *options])

    def file_config(self) -> TenantConfig:
        config = read_tenants_file(self.file, development=False)
        assert isinstance(config, TenantConfig)
        return config

    def stored_config(self) -> tuple[int, TenantConfig]:
        with read_transaction(self.engine) as connection:
            return read_revision(connection), load_config(connection)

    def change_records(self) -> list[ChangeRecord]:
        """Return the recorded changes, oldest first."""
        with read_transaction(self.engine) as connection:
            return read_changes(connection, 1_000).records[::-1]


def json_rows(result: Result) -> list[dict[str, Any]]:
    """Return the lines that a successful command printed with --json."""
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]
