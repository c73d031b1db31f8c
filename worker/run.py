"""Starts workers, if the services that the settings name can be used."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
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
from worker.broker.queues import QUEUES_BY_ROLE
from worker.broker.result_store import DISCARD_COUNTER
from worker.cli.database import open_database
from worker.cli.redis_servers import open_broker, open_results, read_server_facts
from worker.cli.service_failures import ServiceUnusable
from worker.errors import Transient
from worker.features import ROLES, resolve
from worker.health import ALL_ROLES, HealthSocket
from worker.ledger.tenant_rows import ConfigStore
from worker.logs import configure_logging, log_all_output
from worker.rules.tenant_config import Tenant, TenantConfig
from worker.settings import Settings, check_settings
from worker.supervisor import Supervisor, WorkerProcess

log = structlog.get_logger()


_Service = Callable[[], AbstractContextManager[Any]]


def check_services() -> None:
    """Connect to the database, the broker and the result store.

    Raises click.ClickException with the causes that an operator has to mend, such as a wrong
    password or missing tables. For an unreachable service, only a warning is logged: workers wait.
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
            if error.cause.is_temporary:
                log.warning("service_unreachable", problem=error.message, hint=error.cause.hint)
            else:
                wrong.append(error.format_message())
    if wrong:
        raise click.ClickException("no worker was started.\n" + "\n".join(wrong))


_FAIR_QUEUE_STOP_TIMEOUT = 1.0  # seconds; what it has not moved stays where it is
_CONFIG_INTERVAL = 5.0  # seconds after which a changed tenant config is noticed
_DATABASE_SECONDS = 15.0  # an attempt to connect takes 5
_LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


@click.command()
@click.option(
    "--only",
    type=click.Choice([*QUEUES_BY_ROLE, *ROLES]),
    help="Only process requests (issue: all, interactive: small batches, bulk: large batches), "
    "only send webhooks, write manifests and release expired grants (upkeep), "
    f"{''.join(f'or only {role.help} ({name}). ' for name, role in ROLES.items())}"
    "Without it, run one worker for requests, one for webhooks and the like"
    f"{''.join(f', and one for {name} once {role.condition}' for name, role in ROLES.items())}.",
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
    check_settings()  # invalid ones end this process before it starts any other
    settings = Settings()
    configure_logging(logging.getLevelNamesMapping()[loglevel])
    check_services()
    log_all_output()  # from here on; click prints why no worker was started
    watch = _ConfigWatch(settings)
    roles = [only] if only else ["issue", "upkeep"]
    workers = [_worker(role, loglevel) for role in roles]
    stop = Event()
    with ExitStack() as stack:
        supervisor = Supervisor(workers, _health_socket(only, stack), watch.find_problem)
        if only is None:
            watch.on_need = lambda role: supervisor.add(_worker(role, loglevel))
        Thread(target=watch.run, args=(stop,), name="tenant-config", daemon=True).start()
        if only not in {"upkeep", *ROLES}:
            stack.enter_context(_fair_queue(settings, watch, stop))
        exit_code = supervisor.run()
    sys.exit(exit_code)


def _health_socket(only: str | None, stack: ExitStack) -> HealthSocket | None:
    """Let `health` ask this process, if the folder for temporary files permits it."""
    try:
        return stack.enter_context(closing(HealthSocket(only or ALL_ROLES)))
    except OSError as error:
        log.warning("health_unavailable", problem=str(error))
        return None


@contextmanager
def _fair_queue(settings: Settings, watch: "_ConfigWatch", stop: Event) -> Iterator[None]:
    """Share the issuing workers among tenants while the block runs; set `stop` after it."""
    fair_queue = FairQueue(
        settings.broker_url.get_secret_value(),
        lambda: watch.limits,
        partial(_count_dropped, settings.result_url.get_secret_value()),
    )
    thread = Thread(target=fair_queue.run, args=(stop,), name="fair-queue", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_FAIR_QUEUE_STOP_TIMEOUT)


class _ConfigWatch:
    """Reads the tenant config every few seconds, which shows as well if the database answers.

    limits are those of all tenants' lanes; the last known ones while the database is unreachable,
    and empty until they were read once. on_need is called once with each role that is needed.
    """

    def __init__(self, settings: Settings) -> None:
        self._default = LaneLimits(settings.lane_messages, settings.lane_age_seconds)
        self._database_url = settings.database_url.get_secret_value()
        self._problem: str | None = "the database is not read yet"
        self._answered_at = time.monotonic()
        self.limits: Mapping[str, LaneLimits] = {}
        self.on_need: Callable[[str], None] | None = None
        self._not_needed = dict(ROLES)

    def find_problem(self) -> str | None:
        """Return why the workers cannot use the database, if anything."""
        silent = time.monotonic() - self._answered_at
        if silent > _DATABASE_SECONDS:  # also if the driver waits without a limit
            return f"the database has not answered for {silent:.0f} s"
        return self._problem

    def run(self, stop: Event) -> None:
        """Read the config until `stop` is set."""
        engine = create_database_engine(self._database_url)
        config = ConfigStore(engine)
        while not stop.is_set():
            try:
                self._use(config.current())
                self._problem = None
            except Transient as error:  # the supervisor logs that the workers are not ready
                self._problem = str(error)
            except Exception:  # else the lanes of new tenants would not be found until a restart
                self._problem = "the tenant config cannot be read: see the log"
                log.exception("tenant_config_not_read")
            self._answered_at = time.monotonic()
            stop.wait(_CONFIG_INTERVAL)
        engine.dispose()

    def _use(self, config: TenantConfig) -> None:
        own = {tenant.name: self._limits(tenant) for tenant in config.tenants.values()}
        self.limits = {SERVICE_FIELD: self._default} | own
        for name, role in list(self._not_needed.items()):
            if self.on_need and resolve(role.is_needed)(config):
                self.on_need(name)
                del self._not_needed[name]

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


def _worker(role: str, loglevel: str) -> WorkerProcess:
    if role in ROLES:
        command = [sys.executable, "-m", f"worker.{ROLES[role].module}", loglevel]
        return WorkerProcess(role, command, os.environ)
    # SIGTERM then stops softly: running tasks may end, and prefetched messages return to the queue.
    environ = dict(os.environ) | {"REMAP_SIGTERM": "SIGQUIT"}
    command = [sys.executable, "-m", "worker.celery_worker", role, loglevel]
    return WorkerProcess(role, command, environ)
