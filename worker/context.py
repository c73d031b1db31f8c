"""Everything that use cases need from outside: connections, credentials, time, randomness.

A process creates its context when it first needs it, after forking: processes cannot share database
connections or TLS contexts.
"""

import os
import random
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache

from sqlalchemy import Engine

from worker import clock
from worker.aws.clients import S3Clients
from worker.db.engine import create_database_engine
from worker.db.tenants import ConfigStore
from worker.net.webhook_client import WebhookClient
from worker.settings import Settings


def _new_lease() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class Context:
    """The dependencies of a use case.

    random returns a number from 0 up to, not including, 1. new_lease returns a unique name.
    webhook_client creates the client on first use, because its TLS context takes time. environ
    contains the webhook secrets that the tenant config refers to.
    """

    engine: Engine
    config: ConfigStore
    s3: S3Clients
    now: Callable[[], datetime] = clock.now
    random: Callable[[], float] = random.random
    new_lease: Callable[[], str] = _new_lease
    webhook_client: Callable[[], WebhookClient] = WebhookClient
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)


def create_context(engine: Engine, settings: Settings) -> Context:
    """Create a context over an engine, with the clients that the settings describe."""
    return Context(
        engine,
        ConfigStore(engine),
        S3Clients(settings.s3_endpoint, settings.sts_endpoint),
        webhook_client=cache(lambda: WebhookClient(development=settings.development)),
    )


@cache
def settings() -> Settings:
    """Return the settings, read from the environment once per process."""
    return Settings()


@cache
def process_context() -> Context:
    """Return this process's context, created on first use."""
    engine = create_database_engine(settings().database_url.get_secret_value())
    return create_context(engine, settings())
