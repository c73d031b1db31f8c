"""The service in this process: use cases over a database and a clock, without a queue."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Engine

from worker.aws.clients import S3Clients
from worker.context import Context
from worker.db.config_store import ConfigStore
from worker.usecases.dispatch import Response, respond

Clock = Callable[[], datetime]


class InProcessService:
    """Responds to messages as a worker does, without Celery."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def respond(self, raw: Any) -> Response:
        """Respond to a message as it comes off the queue."""
        return respond(raw, self.context)

    def issue(self, raw: Any) -> dict[str, Any]:
        """Return the response to a message before it is sealed."""
        return self.respond(raw).values


def build_context(engine: Engine, s3: S3Clients, clock: Clock, **changes: Any) -> Context:
    """Return the context of one process; changes replace any of its fields."""
    fields: dict[str, Any] = {"config": ConfigStore(engine), "s3": s3, "now": clock}
    return Context(engine, **fields | changes)


def build_service(engine: Engine, s3: S3Clients, clock: Clock) -> InProcessService:
    """Return the service as one process runs it."""
    return InProcessService(build_context(engine, s3, clock))
