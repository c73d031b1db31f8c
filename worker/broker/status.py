"""Read-only checks of the broker, the result store and the workers."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from celery import Celery

from worker.broker.heartbeats import read_heartbeats


@contextmanager
def inspect_app(broker_url: str, result_url: str) -> Iterator[Celery]:
    """Yield an application for these servers that ignores Celery's environment variables."""
    with Celery(config_source="celeryconfig", set_as_current=False) as app:
        app.conf.update(
            broker_read_url=broker_url,
            broker_write_url=broker_url,
            result_backend=result_url,
            result_backend_always_retry=False,
        )
        yield app


def check_broker(app: Celery, seconds: float) -> None:
    """Connect to the broker, with one retry; raises the transport's exception if that fails."""
    with app.connection_for_read(connect_timeout=seconds) as connection:
        connection.ensure_connection(max_retries=1, timeout=seconds)


def check_results(app: Celery) -> None:
    """Read from the result store once; raises the backend's exception if that fails."""
    _ = app.AsyncResult("valetkey.doctor").state


def workers_by_queue(app: Celery) -> dict[str, list[str]]:
    """Return the names of the workers whose heartbeat is fresh, by the queue that they consume."""
    consumers: defaultdict[str, list[str]] = defaultdict(list)
    for heartbeat in read_heartbeats(app.backend.client):
        for queue in heartbeat.queues:
            consumers[queue].append(heartbeat.worker)
    return dict(consumers)
