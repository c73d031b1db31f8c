"""The service's verbs, put together as one process does it, over a database and a clock."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Engine

from worker.adapters.ledger import Ledger
from worker.adapters.multiparts import Multiparts
from worker.adapters.s3 import S3
from worker.issue import Issuer
from worker.multipart import Uploads
from worker.reissue import Reissuer

Clock = Callable[[], datetime]


def uploads(engine: Engine, s3: S3) -> Uploads:
    return Uploads(Multiparts(engine), Ledger(engine), s3)


def issuer(engine: Engine, s3: S3, clock: Clock) -> Issuer:
    return Issuer(Ledger(engine), uploads(engine, s3), s3, clock)


def reissuer(engine: Engine, s3: S3, clock: Clock) -> Reissuer:
    return Reissuer(Ledger(engine), uploads(engine, s3), s3, clock)
