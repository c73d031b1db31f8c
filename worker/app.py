"""The Celery application: `celery -A worker.app`, or rather `python -m worker run`."""

import gc
from typing import Any

from celery import Celery
from celery.signals import setup_logging, worker_process_init

from worker import logs
from worker.context import settings

app = Celery("valetkey", include=["worker.tasks"])
app.config_from_object("celeryconfig")
app.conf.update(
    broker_url=settings().broker_url.get_secret_value(),
    result_backend=settings().result_url.get_secret_value(),
    worker_concurrency=settings().concurrency,
    beat_schedule={
        "deliver": {
            "task": "valetkey.deliver",
            "schedule": settings().sweep_seconds,
            # Without a worker to take them, sweeps must not pile up.
            "options": {"expires": settings().sweep_seconds},
        },
        "manifests": {
            "task": "valetkey.manifests",
            "schedule": settings().sweep_seconds,
            "options": {"expires": settings().sweep_seconds},
        },
        "upkeep": {
            "task": "valetkey.upkeep",
            "schedule": 60.0,
            "options": {"expires": 60.0},
        },
    },
)


@setup_logging.connect
def _configure_logging(loglevel: int, **_: Any) -> None:
    logs.configure_logging(loglevel)


@worker_process_init.connect
def _keep_what_is_loaded(**_: Any) -> None:
    # All that is loaded by now stays. To look through it for garbage, over and over, would take a
    # tenth of a batch's time.
    gc.collect()
    gc.freeze()
