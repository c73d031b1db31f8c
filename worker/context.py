"""What one process holds for its life, made when first needed.

That is in the child, after the fork: a database connection or a TLS context cannot be shared.
"""

import os
import random
import uuid
from functools import cache

from sqlalchemy import Engine

from worker import clock
from worker.aws.clients import S3Clients
from worker.db.engine import create_database_engine
from worker.db.history import BatchHistoryReader
from worker.db.ledger import Ledger
from worker.db.manifests import ManifestQueue
from worker.db.multiparts import MultipartStore
from worker.db.outbox import Outbox
from worker.db.rejections import RejectionCounter
from worker.db.reopening import BatchReader
from worker.net.webhook_client import WebhookClient
from worker.settings import Settings
from worker.usecases.cancel import Canceller
from worker.usecases.cleanup import Cleanup
from worker.usecases.deliver import Deliverer
from worker.usecases.dispatch import Dispatcher
from worker.usecases.explain import Explainer
from worker.usecases.issue import Issuer
from worker.usecases.manifest import ManifestWriter
from worker.usecases.multipart import MultipartUploads
from worker.usecases.reissue import Reissuer
from worker.usecases.reopen import Reopener


@cache
def settings() -> Settings:
    """Read the environment, once."""
    return Settings()


@cache
def answerer() -> Dispatcher:
    """Answer messages over this process's connections and credentials."""
    return Dispatcher(
        _ledger(),
        RejectionCounter(_engine()),
        Issuer(_ledger(), _uploads(), _s3(), clock.now),
        Canceller(_ledger(), clock.now),
        Explainer(_ledger(), BatchHistoryReader(_engine()), _uploads(), _s3(), clock.now),
        Reopener(BatchReader(_engine()), _ledger(), _reissuer()),
        clock.now,
    )


@cache
def upkeep() -> Cleanup:
    """Sweep over what has ended by itself."""
    return Cleanup(_uploads(), _ledger(), clock.now)


@cache
def deliverer() -> Deliverer:
    """Send what is due over this process's connections."""
    return Deliverer(
        outbox=Outbox(_engine(), _new_lease),
        ledger=_ledger(),
        reissuer=_reissuer(),
        courier=WebhookClient(development=settings().development),
        environ=os.environ,
        now=clock.now,
        jitter=random.random,
    )


@cache
def manifest_writer() -> ManifestWriter:
    """Write the manifests that are due over this process's connections and credentials."""
    return ManifestWriter(
        manifests=ManifestQueue(_engine(), _new_lease),
        ledger=_ledger(),
        reissuer=_reissuer(),
        s3=_s3(),
        now=clock.now,
        jitter=random.random,
    )


@cache
def _engine() -> Engine:
    return create_database_engine(settings().database_url.get_secret_value())


@cache
def _ledger() -> Ledger:
    return Ledger(_engine())


@cache
def _s3() -> S3Clients:
    return S3Clients(settings().s3_endpoint, settings().sts_endpoint)


@cache
def _uploads() -> MultipartUploads:
    return MultipartUploads(
        MultipartStore(_engine()), BatchHistoryReader(_engine()), _ledger(), _s3()
    )


@cache
def _reissuer() -> Reissuer:
    return Reissuer(_ledger(), _uploads(), _s3(), clock.now)


def _new_lease() -> str:
    return str(uuid.uuid4())
