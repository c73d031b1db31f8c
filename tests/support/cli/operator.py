"""Someone who administers a service by its commands, for tests to look over the shoulder of."""

from pathlib import Path

from click.testing import CliRunner, Result
from sqlalchemy import Engine

from worker.commands.apply import apply
from worker.core.tenants.config import TenantConfig
from worker.db.audit.changes import ChangeRecord, read_changes
from worker.db.engine import read_transaction
from worker.db.tenants import load_config, read_revision
from worker.usecases.tenants_file import read_tenants_file


class Operator:
    """Someone who applies files to one database, and looks at what it then holds."""

    def __init__(self, engine: Engine, file: Path) -> None:
        self.engine = engine
        self.file = file

    def apply(self, text: str, *options: str) -> Result:
        self.file.write_text(text, encoding="utf-8")
        return CliRunner().invoke(apply, [str(self.file), *options])

    def written(self) -> TenantConfig:
        declared = read_tenants_file(self.file, development=False)
        assert isinstance(declared, TenantConfig)
        return declared

    def stored(self) -> tuple[int, TenantConfig]:
        with read_transaction(self.engine) as connection:
            return read_revision(connection), load_config(connection)

    def changed(self) -> list[ChangeRecord]:
        """What was recorded of changes, in the order they were made."""
        with read_transaction(self.engine) as connection:
            return read_changes(connection, 1_000)[::-1]
