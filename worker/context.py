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
from threading import RLock
from typing import Any, TypeVar

from sqlalchemy import Engine

from worker import clock
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import IDLE_TIMEOUT, create_database_engine
from worker.base.jobs import ProblemLog
from worker.base.tracing import start_tracing
from worker.ledger.tenant_rows import ConfigStore
from worker.settings import Settings, check_settings

Created = TypeVar("Created")


@dataclass(frozen=True, slots=True)
class Context:
    """The dependencies of a use case. Threads may share it.

    random returns a number from 0 up to, not including, 1. new_lease returns a unique name. environ
    contains the webhook secrets that the tenant config refers to. trigger starts the jobs of a task
    after a commit; without it, the next sweep of the upkeep worker finds what is due. announce
    publishes a text on the channel of a task's result, and returns how many clients received it.
    problems logs once what fails again and again. created has what `use` has created.
    """

    engine: Engine
    config: ConfigStore
    s3: S3Clients
    now: Callable[[], datetime] = clock.now
    random: Callable[[], float] = random.random
    new_lease: Callable[[], str] = lambda: str(uuid.uuid4())
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    trigger: Callable[[str], None] = lambda _task_name: None
    announce: Callable[[str, str], int] = lambda _task_id, _text: 0
    problems: ProblemLog = field(default_factory=ProblemLog, repr=False)
    created: dict[Callable[[], Any], Any] = field(default_factory=dict, repr=False)

    def use(self, create: Callable[[], Created]) -> Created:
        """Return what a function creates on its first use, once for all threads.

        So features have clients of their own in a process, and tests put others in their place.
        """
        with _CREATING:
            if create not in self.created:
                self.created[create] = create()
        created: Created = self.created[create]
        return created


_CREATING = RLock()


def create_context(engine: Engine, settings: Settings) -> Context:
    """Create a context over an engine, with the clients that the settings describe."""
    return Context(engine, ConfigStore(engine), S3Clients.from_settings(settings))


@cache
def settings() -> Settings:
    """Return the settings of the core, read from the environment once per process."""
    check_settings()
    return Settings()


def process_context() -> Context:
    """Return this process's context, created on first use; threads share it."""
    with _CREATING:
        return _create_process_context()


@cache
def _create_process_context() -> Context:
    start_tracing()
    url = settings().database_url.get_secret_value()
    engine = create_database_engine(url, idle_timeout=IDLE_TIMEOUT)
    return create_context(engine, settings())
