"""The Celery application, started by `python -m worker run` or `celery -A worker.app`."""

import gc
from typing import Any

from celery import Celery
from celery.signals import setup_logging, worker_process_init, worker_ready

from worker import logs
from worker.broker.heartbeats import start_heartbeat
from worker.context import settings
from worker.supervisor import say_ready

app = Celery("valetkey", include=["worker.tasks"])
app.config_from_object("celeryconfig")
if settings().broker_url.get_secret_value().startswith(("redis://", "rediss://")):
    app.conf.broker_transport = "worker.broker.guarded_redis:GuardedTransport"
app.Worker = app.subclass_with_self("worker.broker.guarded_worker:GuardedWorker")
app.conf.update(
    broker_url=settings().broker_url.get_secret_value(),
    result_backend=settings().result_url.get_secret_value(),
    worker_concurrency=settings().concurrency,
    beat_schedule={
        "deliver": {
            "task": "valetkey.deliver",
            "schedule": settings().sweep_seconds,
            # Messages expire, so that they do not pile up while no worker consumes them.
            "options": {"expires": settings().sweep_seconds},
        },
        "manifests": {
            "task": "valetkey.manifests",
            "schedule": settings().sweep_seconds,
            "options": {"expires": settings().sweep_seconds},
        },
        "upkeep": {
            "task": "valetkey.upkeep",
            "schedule": settings().sweep_seconds,
            "options": {"expires": settings().sweep_seconds},
        },
    },
)


@setup_logging.connect
def _configure_logging(loglevel: int, **_: Any) -> None:
    logs.configure_logging(loglevel)


@worker_ready.connect
def _announce_worker(sender: Any, **_: Any) -> None:
    start_heartbeat(sender, app)
    say_ready()


@worker_process_init.connect
def _freeze_loaded_objects(**_: Any) -> None:
    # Modules loaded by now are never freed. Exclude them from garbage collection, which would
    # otherwise take a tenth of a batch's time.
    gc.collect()
    gc.freeze()
