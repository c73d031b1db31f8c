"""The service's verbs, put together as one process does it, over a database and a clock."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Engine

from worker.aws.clients import S3Clients
from worker.db.history import BatchHistoryReader
from worker.db.ledger import Ledger
from worker.db.multiparts import MultipartStore
from worker.db.rejections import RejectionCounter
from worker.db.reopening import BatchReader
from worker.usecases.cancel import Canceller
from worker.usecases.dispatch import Dispatcher, Response
from worker.usecases.explain import Explainer
from worker.usecases.issue import Issuer
from worker.usecases.multipart import MultipartUploads
from worker.usecases.reissue import Reissuer
from worker.usecases.reopen import Reopener

Clock = Callable[[], datetime]


def build_uploads(engine: Engine, s3: S3Clients) -> MultipartUploads:
    return MultipartUploads(MultipartStore(engine), BatchHistoryReader(engine), Ledger(engine), s3)


class InProcessService:
    """The service as a queue's message meets it, and without a queue."""

    def __init__(self, engine: Engine, s3: S3Clients, clock: Clock) -> None:
        ledger = Ledger(engine)
        self.issuer = Issuer(ledger, build_uploads(engine, s3), s3, clock)
        self.answerer = Dispatcher(
            ledger,
            RejectionCounter(engine),
            self.issuer,
            Canceller(ledger, clock),
            Explainer(ledger, BatchHistoryReader(engine), build_uploads(engine, s3), s3, clock),
            Reopener(BatchReader(engine), ledger, build_reissuer(engine, s3, clock)),
            clock,
        )

    def answer(self, raw: Any) -> Response:
        """Answer what came off the wire."""
        return self.answerer.answer(raw)

    def issue(self, raw: Any) -> dict[str, Any]:
        """Answer what came off the wire, and say what was said, before it is sealed."""
        return self.answer(raw).said


def build_service(engine: Engine, s3: S3Clients, clock: Clock) -> InProcessService:
    return InProcessService(engine, s3, clock)


def build_reissuer(engine: Engine, s3: S3Clients, clock: Clock) -> Reissuer:
    return Reissuer(Ledger(engine), build_uploads(engine, s3), s3, clock)
