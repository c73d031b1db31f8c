"""The service in this process, with its clock and database: tests issue, report uses and read."""

from typing import Any

from sqlalchemy import insert, select

from models import ConfigChange
from tests.support.builders.messages import Clock
from tests.support.builders.services import InProcessService
from tests.support.uses.uploading import Uploader
from worker.base.database_engine import read_transaction, write_transaction
from worker.context import Context
from worker.uses.use_recorder import RecordedUses, record_uses
from worker.uses.use_reports import UseReport


class UseService(InProcessService):
    """A service whose clock tests move, and whose tables they read."""

    def __init__(self, context: Context, clock: Clock) -> None:
        super().__init__(context)
        self.clock = clock

    def log_change(self, path: str, before: str) -> None:
        """Log that an operator changed a field of the config from this value."""
        change = {"path": path, "before": before, "changed_by": "ann", "command": "apply"}
        self.insert(ConfigChange, **change, changed_at=self.clock())

    def insert(self, table: Any, **values: Any) -> None:
        """Insert a row."""
        with write_transaction(self.engine) as connection:
            connection.execute(insert(table), values)

    def rows(self, *columns: Any) -> list[Any]:
        """Return these columns of all rows, in their order."""
        with read_transaction(self.engine) as connection:
            return [tuple(row) for row in connection.execute(select(*columns).order_by(*columns))]

    def charged_bytes(self) -> int:
        """Return the upload bytes that are charged in all days together."""
        return self.charged("day", "upload_bytes")

    def ids(self, message: dict[str, Any]) -> list[str]:
        """Issue a request; return the ids of its grants."""
        return [item["id"] for item in self.issue(message)["items"]]

    def record(self, *reports: UseReport) -> RecordedUses:
        """Record uses that were reported together."""
        return record_uses(reports, self.context)


class UploadService(UseService, Uploader):
    """A UseService in front of real storage; owner is a boto3 client of its bucket's owner."""

    def __init__(self, context: Context, clock: Clock, owner: Any) -> None:
        UseService.__init__(self, context, clock)
        Uploader.__init__(self, self)
        self.owner = owner
