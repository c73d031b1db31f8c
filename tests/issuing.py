"""The service's verbs, put together as one process does it, over a database and a clock."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Engine

from worker.adapters.ledger import Ledger
from worker.adapters.multiparts import Multiparts
from worker.adapters.past import Past
from worker.adapters.rejections import Rejections
from worker.adapters.reopening import Reopening
from worker.adapters.s3 import S3
from worker.answer import Answer, Answerer
from worker.cancel import Canceller
from worker.explain import Explainer
from worker.issue import Issuer
from worker.multipart import Uploads
from worker.reissue import Reissuer
from worker.reopen import Reopener

Clock = Callable[[], datetime]


def uploads(engine: Engine, s3: S3) -> Uploads:
    return Uploads(Multiparts(engine), Past(engine), Ledger(engine), s3)


class Answering:
    """The service as a queue's message meets it, and without a queue."""

    def __init__(self, engine: Engine, s3: S3, clock: Clock) -> None:
        ledger = Ledger(engine)
        self.issuer = Issuer(ledger, uploads(engine, s3), s3, clock)
        self.answerer = Answerer(
            ledger,
            Rejections(engine),
            self.issuer,
            Canceller(ledger, clock),
            Explainer(ledger, Past(engine), uploads(engine, s3), s3, clock),
            Reopener(Reopening(engine), ledger, reissuer(engine, s3, clock)),
            clock,
        )

    def answer(self, raw: Any) -> Answer:
        """Answer what came off the wire."""
        return self.answerer.answer(raw)

    def issue(self, raw: Any) -> dict[str, Any]:
        """Answer what came off the wire, and say what was said, before it is sealed."""
        return self.answer(raw).said


def issuer(engine: Engine, s3: S3, clock: Clock) -> Answering:
    return Answering(engine, s3, clock)


def reissuer(engine: Engine, s3: S3, clock: Clock) -> Reissuer:
    return Reissuer(Ledger(engine), uploads(engine, s3), s3, clock)
