"""Someone who administers a service by its commands, for tests to look over the shoulder of."""

from pathlib import Path

from click.testing import CliRunner, Result
from sqlalchemy import Engine

from worker.adapters.changes import Entry, entries
from worker.adapters.database import reading
from worker.adapters.declarations import load, revision
from worker.commands.apply import apply
from worker.core.tenancy import Declared
from worker.declared import read


class Operator:
    """Someone who applies files to one database, and looks at what it then holds."""

    def __init__(self, engine: Engine, file: Path) -> None:
        self.engine = engine
        self.file = file

    def apply(self, text: str, *options: str) -> Result:
        self.file.write_text(text, encoding="utf-8")
        return CliRunner().invoke(apply, [str(self.file), *options])

    def written(self) -> Declared:
        declared = read(self.file, development=False)
        assert isinstance(declared, Declared)
        return declared

    def stored(self) -> tuple[int, Declared]:
        with reading(self.engine) as connection:
            return revision(connection), load(connection)

    def changed(self) -> list[Entry]:
        """What was recorded of changes, in the order they were made."""
        with reading(self.engine) as connection:
            return entries(connection, 1_000)[::-1]
