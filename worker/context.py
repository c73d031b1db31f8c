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
from threading import Lock
from typing import TypeVar

from sqlalchemy import Engine

from worker import clock
from worker.aws.role_policies import RolePolicies
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import IDLE_TIMEOUT, create_database_engine
from worker.base.jobs import ProblemLog, RateLimits
from worker.base.tracing import start_tracing
from worker.base.webhook_client import WebhookClient
from worker.ledger.tenant_rows import ConfigStore
from worker.settings import Settings

Created = TypeVar("Created")


@dataclass(frozen=True, slots=True)
class Context:
    """The dependencies of a use case. Threads may share it.

    random returns a number from 0 up to, not including, 1. new_lease returns a unique name.
    webhook_client creates the client on first use, because its TLS context takes time. environ
    contains the webhook secrets that the tenant config refers to. trigger_deliveries is called
    after a commit of deliveries; without a trigger, the next sweep of the upkeep worker finds them.
    probe_limits are the rates at which messages let this process ask storage for objects. problems
    logs once what fails again and again.
    """

    engine: Engine
    config: ConfigStore
    s3: S3Clients
    now: Callable[[], datetime] = clock.now
    random: Callable[[], float] = random.random
    new_lease: Callable[[], str] = lambda: str(uuid.uuid4())
    webhook_client: Callable[[], WebhookClient] = WebhookClient
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    trigger_deliveries: Callable[[], None] = lambda: None
    probe_limits: RateLimits = field(default_factory=RateLimits, repr=False)
    roles: RolePolicies = field(default_factory=RolePolicies, repr=False)
    problems: ProblemLog = field(default_factory=ProblemLog, repr=False)


def _once(create: Callable[[], Created]) -> Callable[[], Created]:
    """Return a function that creates something on first use, once for all threads."""
    lock, cached = Lock(), cache(create)

    def get() -> Created:
        with lock:
            return cached()

    return get


def create_context(engine: Engine, settings: Settings) -> Context:
    """Create a context over an engine, with the clients that the settings describe."""
    return Context(
        engine,
        ConfigStore(engine),
        S3Clients.from_settings(settings),
        roles=RolePolicies(settings.iam_endpoint),
        webhook_client=_once(lambda: WebhookClient(development=settings.development)),
    )


@cache
def settings() -> Settings:
    """Return the settings, read from the environment once per process."""
    return Settings()


@_once
def process_context() -> Context:
    """Return this process's context, created on first use; threads share it."""
    start_tracing()
    url = settings().database_url.get_secret_value()
    engine = create_database_engine(url, idle_timeout=IDLE_TIMEOUT)
    return create_context(engine, settings())
