"""What one process holds for its life, made when first needed.

That is in the child, after the fork: a database connection or a TLS context cannot be shared.
"""

import os
import random
import uuid
from functools import cache

from sqlalchemy import Engine

from worker.adapters import clock
from worker.adapters.database import connect
from worker.adapters.http import Courier
from worker.adapters.ledger import Ledger
from worker.adapters.manifests import Manifests
from worker.adapters.multiparts import Multiparts
from worker.adapters.outbox import Outbox
from worker.adapters.past import Past
from worker.adapters.rejections import Rejections
from worker.adapters.reopening import Reopening
from worker.adapters.s3 import S3
from worker.answer import Answerer
from worker.cancel import Canceller
from worker.deliver import Deliverer
from worker.explain import Explainer
from worker.issue import Issuer
from worker.manifest import ManifestWriter
from worker.multipart import Uploads
from worker.reissue import Reissuer
from worker.reopen import Reopener
from worker.settings import Settings
from worker.upkeep import Upkeep


@cache
def settings() -> Settings:
    """Read the environment, once."""
    return Settings()


@cache
def answerer() -> Answerer:
    """Answer messages over this process's connections and credentials."""
    return Answerer(
        _ledger(),
        Rejections(_engine()),
        Issuer(_ledger(), _uploads(), _s3(), clock.now),
        Canceller(_ledger(), clock.now),
        Explainer(_ledger(), Past(_engine()), _uploads(), _s3(), clock.now),
        Reopener(Reopening(_engine()), _ledger(), _reissuer()),
        clock.now,
    )


@cache
def upkeep() -> Upkeep:
    """Sweep over what has ended by itself."""
    return Upkeep(_uploads(), _ledger(), clock.now)


@cache
def deliverer() -> Deliverer:
    """Send what is due over this process's connections."""
    return Deliverer(
        outbox=Outbox(_engine(), _new_lease),
        ledger=_ledger(),
        reissuer=_reissuer(),
        courier=Courier(development=settings().development),
        environ=os.environ,
        now=clock.now,
        jitter=random.random,
    )


@cache
def manifest_writer() -> ManifestWriter:
    """Write the manifests that are due over this process's connections and credentials."""
    return ManifestWriter(
        manifests=Manifests(_engine(), _new_lease),
        ledger=_ledger(),
        reissuer=_reissuer(),
        s3=_s3(),
        now=clock.now,
        jitter=random.random,
    )


@cache
def _engine() -> Engine:
    return connect(settings().database_url.get_secret_value())


@cache
def _ledger() -> Ledger:
    return Ledger(_engine())


@cache
def _s3() -> S3:
    return S3(settings().s3_endpoint, settings().sts_endpoint)


@cache
def _uploads() -> Uploads:
    return Uploads(Multiparts(_engine()), Past(_engine()), _ledger(), _s3())


@cache
def _reissuer() -> Reissuer:
    return Reissuer(_ledger(), _uploads(), _s3(), clock.now)


def _new_lease() -> str:
    return str(uuid.uuid4())
