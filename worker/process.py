"""What one process holds for its life, made when first needed.

That is in the child, after the fork: a database connection or a TLS context cannot be shared.
"""

import os
import random
import uuid
from functools import cache

from worker.adapters import clock
from worker.adapters.database import connect
from worker.adapters.http import Courier
from worker.adapters.ledger import Ledger
from worker.adapters.outbox import Outbox
from worker.adapters.s3 import S3
from worker.deliver import Deliverer
from worker.issue import Issuer
from worker.settings import Settings


@cache
def settings() -> Settings:
    """Read the environment, once."""
    return Settings()


@cache
def issuer() -> Issuer:
    """Decide chunks over this process's connections and credentials."""
    return Issuer(_ledger(), S3(settings().s3_endpoint), clock.now)


@cache
def deliverer() -> Deliverer:
    """Send what is due over this process's connections."""
    return Deliverer(
        outbox=Outbox(connect(settings().database_url.get_secret_value()), _new_lease),
        ledger=_ledger(),
        issuer=issuer(),
        courier=Courier(development=settings().development),
        environ=os.environ,
        now=clock.now,
        jitter=random.random,
    )


@cache
def _ledger() -> Ledger:
    return Ledger(connect(settings().database_url.get_secret_value()))


def _new_lease() -> str:
    return str(uuid.uuid4())
