"""The Celery application, started by `python -m worker run` or `celery -A worker.app`."""

import gc
import os
import sys
from dataclasses import replace
from functools import cache, cached_property
from typing import Any

import structlog
from celery import Celery
from celery.signals import (
    celeryd_after_setup,
    setup_logging,
    worker_before_create_process,
    worker_init,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
)
from pydantic import ValidationError

from valetkey.delivery.causes import describe_cause
from valetkey.delivery.redis_clients import kombu_address
from worker import logs
from worker.aws.credentials import load_service_files
from worker.base.clock_watch import WATCH
from worker.base.database_engine import load_driver
from worker.base.jobs import SingleFlight
from worker.base.progress import SUPERVISOR_VARIABLE, stop_with_supervisor
from worker.broker.celery_guard import Heart
from worker.context import Context, process_context, settings
from worker.features import FEATURES, load_hooks, resolve
from worker.settings import Settings, describe_errors

log = structlog.get_logger()


def _settings() -> Settings:
    """Return the settings, or end the process: Celery would print the traceback of an error."""
    try:
        return settings()
    except ValidationError:
        sys.stderr.write(f"Error: {describe_errors()}\n")
        sys.exit(2)


_RESULT_STORE = "worker.broker.result_store:ResultStore"
app = Celery("valetkey", include=["worker.tasks"])
app.config_from_object("celeryconfig")
app.Worker = app.subclass_with_self("worker.broker.celery_guard:GuardedWorker")
_broker_url, _sentinel_options = kombu_address(_settings().broker_url.get_secret_value())
if _sentinel_options:
    # A silent primary is replaced soon. Several time-outs in turn must not exceed 20 seconds.
    _sentinel_options |= {"socket_timeout": 3}
    app.conf.redis_socket_timeout = 3
_transport = "GuardedSentinelTransport" if _sentinel_options else "GuardedTransport"
app.conf.update(
    broker_url=_broker_url,
    broker_transport=f"worker.broker.celery_guard:{_transport}",
    broker_transport_options=app.conf.broker_transport_options | _sentinel_options,
    result_backend=f"{_RESULT_STORE}+{_settings().result_url.get_secret_value()}",
    worker_concurrency=_settings().concurrency,
)


def send_trigger(task_name: str) -> None:
    """Trigger a job of the upkeep worker, if the broker takes the trigger. Never waits.

    What led to it is committed: a fault of the broker must not turn it into a failure. The rows
    that the job works on are in the database, so that the next sweep finds them.
    """
    _trigger(task_name).trigger()


@cache
def _trigger(task_name: str) -> SingleFlight:
    # In a thread of its own: a broker that is frozen holds neither an answer to a producer, nor
    # anybody who reads events or settles slots.
    return SingleFlight(f"trigger_{task_name}", lambda _run: _send(task_name))


def _send(task_name: str) -> None:
    try:
        app.send_task(task_name, ignore_result=True)
    except Exception as error:  # noqa: BLE001 - kombu, redis and sockets raise what they like
        log.warning("trigger_failed", of=task_name, problem=describe_cause(error))


@cache
def job_context() -> Context:
    """Return the process's context, which reaches the broker and the result store."""
    return replace(process_context(), trigger=send_trigger, announce=app.backend.announce)


@setup_logging.connect
def _configure_logging(loglevel: int, **_: Any) -> None:
    logs.configure_logging(loglevel)


_HEART = Heart(app, int(os.environ.get(SUPERVISOR_VARIABLE, os.getppid())))


@worker_init.connect
def _watch_supervisor(**_: Any) -> None:
    stop_with_supervisor()


@celeryd_after_setup.connect  # logs are configured, and no message was taken
def _watch_clock(**_: Any) -> None:
    WATCH.start(_settings())


@worker_ready.connect
def _announce_worker(sender: Any, **_: Any) -> None:
    _HEART.start(sender)


class _Background:
    """Runs what features start in each process of a worker."""

    @cached_property
    def _parts(self) -> list[Any]:
        started = (name for feature in FEATURES for name in feature.starts)
        return [resolve(name)(lambda: app.backend.client) for name in started]

    def start(self, **_: Any) -> None:
        """Start it, in the process itself: threads do not survive a fork."""
        for part in self._parts:
            part.start()

    def stop(self, **_: Any) -> None:
        """Stop it, if it was started."""
        for part in self._parts:
            part.stop()


BACKGROUND = _Background()
"""A worker without child processes starts it itself."""

worker_process_init.connect(BACKGROUND.start)
worker_process_shutdown.connect(BACKGROUND.stop)


@worker_before_create_process.connect
def _prepare_for_fork(**_: Any) -> None:
    load_hooks()
    # What is loaded by now is never freed. Exclude it from garbage collection, which would
    # otherwise take a tenth of a batch's time, and write to the memory that processes share.
    load_driver(_settings().database_url.get_secret_value())
    load_service_files()
    gc.collect()
    gc.freeze()
