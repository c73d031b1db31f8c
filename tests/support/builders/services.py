"""The service in this process: use cases over a database and a clock, without a queue."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, func, select

from models import Reservation, Usage
from tests.support.builders.messages import about_batch
from tests.support.servers.databases import open_engine
from valetkey.wire.refusals import Metric, Window
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import read_transaction, write_transaction
from worker.context import Context
from worker.features import NAMES
from worker.issue.dispatch import Response, respond
from worker.ledger.tenant_rows import ConfigStore, load_config
from worker.rules.tenant_config import TenantConfig
from worker.tenants.config_changes import ChangeAuthor, change_config

Clock = Callable[[], datetime]


def replace_config(connection: Connection, config: TenantConfig, now: datetime) -> None:
    """Replace the tenant config, with a log of its changes, as `apply` does."""
    change_config(connection, load_config(connection), config, ChangeAuthor(now, "ops", "apply"))


class InProcessService:
    """Responds to messages as a worker does, without Celery, and reads its tables."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.engine = context.engine

    @property
    def url(self) -> str:
        """The URL of the database."""
        return self.engine.url.render_as_string(hide_password=False)

    def is_log_sound(self) -> bool:
        """Verify the audit log, and the usage that its rows cost; true without the feature."""
        if "proof" not in NAMES:
            return True
        from worker.proof.verify.verification import VerifyOptions, verify_log  # noqa: PLC0415

        return verify_log(self.url, VerifyOptions()).is_sound

    def respond(self, raw: Any) -> Response:
        """Respond to a message as it comes off the queue."""
        return respond(raw, self.context)

    def issue(self, raw: Any) -> dict[str, Any]:
        """Return the response to a message before it is sealed."""
        return self.respond(raw).values

    def refusal_code(self, raw: Any) -> str | None:
        """Return the code with which a message is refused as a whole, if it is."""
        code: str | None = self.issue(raw).get("refusal", {}).get("code")
        return code

    def cancel(self, batch_id: str, **fields: Any) -> dict[str, Any]:
        """Return the response to a cancellation by acme, with changed fields."""
        return self.issue(about_batch(batch_id, "cancel", requested_by="ann") | fields)

    def apply(self, config: TenantConfig) -> None:
        """Replace the tenant config."""
        with write_transaction(self.engine) as connection:
            replace_config(connection, config, self.context.now())

    def rows(self, *columns: Any) -> list[Any]:
        """Return the rows of a table, or columns of them, in the order of its primary key."""
        table = getattr(columns[0], "class_", columns[0]).__table__
        with read_transaction(self.engine) as connection:
            return list(connection.execute(select(*columns).order_by(*table.primary_key)))

    def charged(self, window: Window = "hour", metric: Metric = "grants") -> int:
        """Return the usage in all windows of a kind together."""
        query = select(func.sum(getattr(Usage, metric))).where(Usage.window == window)
        with read_transaction(self.engine) as connection:
            return int(connection.scalar(query) or 0)

    def reserved(self) -> list[tuple[int, int, int]]:
        """Return the chunk number, items and grants of each reservation."""
        columns = (Reservation.chunk_number, Reservation.items, Reservation.grants)
        return [(row[0], row[1], row[2]) for row in self.rows(*columns)]


def build_context(engine: Engine, s3: S3Clients, clock: Clock, **changes: Any) -> Context:
    """Return the context of one process; changes replace any of its fields."""
    fields: dict[str, Any] = {"config": ConfigStore(engine), "s3": s3, "now": clock}
    return Context(engine, **fields | changes)


def build_service(engine: Engine, s3: S3Clients, clock: Clock) -> InProcessService:
    """Return the service as one process runs it."""
    return InProcessService(build_context(engine, s3, clock))


@contextmanager
def other_processes(service: InProcessService, count: int = 1) -> Iterator[list[InProcessService]]:
    """Yield the service as other processes run it, each with its own connections and clients."""
    with ExitStack() as stack:
        engines = [stack.enter_context(open_engine(service.url)) for _ in range(count)]
        yield [build_service(engine, S3Clients(), service.context.now) for engine in engines]
