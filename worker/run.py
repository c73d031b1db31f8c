"""Starts workers, if the services that the settings name can be used."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from threading import Event, Thread
from typing import Any

import click
import redis
import structlog

from valetkey.delivery.redis_clients import open_redis
from valetkey.wire.waiting import SERVICE_FIELD
from worker.base.database_engine import create_database_engine, read_transaction
from worker.broker.fair_queue import FairQueue
from worker.broker.lanes import LaneLimits
from worker.broker.queues import EVENTS_ROLE, QUEUES_BY_ROLE
from worker.broker.result_store import DISCARD_COUNTER
from worker.cli.database import open_database
from worker.cli.redis_servers import open_broker, open_results, read_server_facts
from worker.cli.service_failures import ServiceUnusable
from worker.core.tenant_config import Tenant
from worker.errors import Transient
from worker.ledger.tenant_rows import ConfigStore
from worker.logs import configure_logging, log_all_output
from worker.settings import Settings
from worker.supervisor import Supervisor, WorkerProcess

log = structlog.get_logger()


_Service = Callable[[], AbstractContextManager[Any]]


def check_services() -> None:
    """Connect to the database, the broker and the result store.

    Raises click.ClickException with the causes that an operator has to mend, such as a wrong
    password or missing tables. Of a service that is away, only a warning is logged: workers wait.
    """
    wrong = []
    services: Mapping[_Service, Callable[[Any], object]] = {
        partial(open_database, read_transaction): lambda _connection: None,
        open_broker: read_server_facts,
        open_results: read_server_facts,
    }
    for open_service, check in services.items():
        try:
            with open_service() as service:
                check(service)
        except ServiceUnusable as error:
            if error.cause.is_away:
                log.warning("service_away", problem=error.message, hint=error.cause.hint)
            else:
                wrong.append(error.format_message())
    if wrong:
        raise click.ClickException("no worker was started.\n" + "\n".join(wrong))


_FAIR_QUEUE_STOP_TIMEOUT = 1.0  # seconds; what it has not moved stays where it is
_CONFIG_INTERVAL = 5.0  # seconds after which a changed tenant config is noticed
_LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


@click.command()
@click.option(
    "--only",
    type=click.Choice([*QUEUES_BY_ROLE, EVENTS_ROLE]),
    help="Only process requests (issue: all, interactive: small batches, bulk: large batches), "
    "only send webhooks, write manifests and release expired grants (upkeep), or only read event "
    "notifications of storage (events). Without it, run one worker for requests, one for webhooks "
    "and the like, and one for events once a bucket profile names a queue.",
)
@click.option(
    "--loglevel",
    type=click.Choice(_LEVELS, case_sensitive=False),
    default="INFO",
    show_default=True,
    help="Minimum level of messages to log on stderr.",
)
def run(only: str | None, loglevel: str) -> None:
    """Run workers until SIGTERM or Ctrl-C, and restart one that ends by itself.

    \b
    Example:
      python -m worker run
    """
    settings = Settings()  # invalid ones end this process before it starts any other
    configure_logging(logging.getLevelNamesMapping()[loglevel])
    check_services()
    log_all_output()  # from here on; click prints why no worker was started
    roles = [only] if only else ["issue", "upkeep"]
    supervisor = Supervisor([_worker(role, loglevel) for role in roles])
    if only is None:
        arguments = settings, supervisor, _worker(EVENTS_ROLE, loglevel)
        Thread(target=_add_events_worker, args=arguments, name="event-queues", daemon=True).start()
    with nullcontext() if only in {"upkeep", EVENTS_ROLE} else _fair_queue(settings):
        exit_code = supervisor.run()
    sys.exit(exit_code)


@contextmanager
def _fair_queue(settings: Settings) -> Iterator[None]:
    """Share the issuing workers among tenants while the block runs."""
    stop = Event()
    limits = _TenantLimits(settings)
    Thread(target=limits.run, args=(stop,), name="lane-limits", daemon=True).start()
    fair_queue = FairQueue(
        settings.broker_url.get_secret_value(),
        lambda: limits.current,
        partial(_count_dropped, settings.result_url.get_secret_value()),
    )
    thread = Thread(target=fair_queue.run, args=(stop,), name="fair-queue", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_FAIR_QUEUE_STOP_TIMEOUT)


class _TenantLimits:
    """The limits of all tenants' lanes; the last known ones while the database is unreachable.

    current is empty until they were read once.
    """

    def __init__(self, settings: Settings) -> None:
        self._default = LaneLimits(settings.lane_messages, settings.lane_age_seconds)
        self._database_url = settings.database_url.get_secret_value()
        self.current: Mapping[str, LaneLimits] = {}

    def run(self, stop: Event) -> None:
        """Read them every few seconds until `stop` is set."""
        engine = create_database_engine(self._database_url)
        config = ConfigStore(engine)
        while not stop.is_set():
            try:
                tenants = config.current().tenants.values()
                own = {tenant.name: self._limits(tenant) for tenant in tenants}
                self.current = {SERVICE_FIELD: self._default} | own
            except Transient:
                pass  # the workers log that the database is unreachable
            except Exception:  # else the lanes of new tenants would not be found until a restart
                log.exception("lane_limits_not_read")
            stop.wait(_CONFIG_INTERVAL)
        engine.dispose()

    def _limits(self, tenant: Tenant) -> LaneLimits:
        messages, age = self._default
        return LaneLimits(tenant.max_waiting or messages, tenant.max_waiting_age or age)


def _count_dropped(result_url: str, count: int) -> None:
    """Count messages that were deleted because their tenant's lane is full."""
    try:
        with open_redis(result_url, socket_timeout=1, socket_connect_timeout=1) as client:
            client.hincrby(DISCARD_COUNTER, "lane_full", count)
    except (redis.RedisError, OSError) as error:
        log.warning("discard_not_reported", problem=type(error).__name__)


def _add_events_worker(settings: Settings, supervisor: Supervisor, worker: WorkerProcess) -> None:
    """Start the worker that reads event notifications, once a bucket profile names a queue."""
    engine = create_database_engine(settings.database_url.get_secret_value())
    config = ConfigStore(engine)
    while not _names_queue(config):
        time.sleep(_CONFIG_INTERVAL)
    supervisor.add(worker)
    engine.dispose()


def _names_queue(config: ConfigStore) -> bool:
    try:
        return any(bucket.events_queue for bucket in config.current().buckets.values())
    except Transient:  # the other workers log that the database is away
        return False


def _worker(role: str, loglevel: str) -> WorkerProcess:
    if role == EVENTS_ROLE:
        command = [sys.executable, "-m", "worker.event_intake", loglevel]
        return WorkerProcess(role, command, os.environ)
    # SIGTERM then stops softly: running tasks may end, and prefetched messages return to the queue.
    environ = dict(os.environ) | {"REMAP_SIGTERM": "SIGQUIT"}
    command = [sys.executable, "-m", "worker.celery_worker", role, loglevel]
    return WorkerProcess(role, command, environ)
