"""The broker, the results and the workers, as somebody sees them who only looks."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery

_ANSWERED = 1.0  # seconds that workers have to answer


@contextmanager
def inspect_app(broker_url: str, result_url: str) -> Iterator[Celery]:
    """An application that knows the servers, and not what its environment says of them."""
    with Celery(config_source="celeryconfig", set_as_current=False) as app:
        app.conf.update(
            broker_read_url=broker_url,
            broker_write_url=broker_url,
            result_backend=result_url,
            result_backend_always_retry=False,
        )
        yield app


def check_broker(app: Celery, seconds: float) -> None:
    """Connect to the broker once, or raise what its transport raises."""
    with app.connection_for_read(connect_timeout=seconds) as connection:
        connection.ensure_connection(max_retries=1, timeout=seconds)


def check_results(app: Celery) -> None:
    """Read from the result store once, or raise what its backend raises."""
    _ = app.AsyncResult("valetkey.doctor").state


def queue_consumers(app: Celery) -> dict[str, list[str]]:
    """The names of the workers that answer, by the queue that they consume."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    answers: dict[str, list[dict[str, Any]]] | None
    answers = app.control.inspect(timeout=_ANSWERED).active_queues()
    for worker, queues in (answers or {}).items():
        for queue in queues:
            found[queue["name"]].append(worker)
    return dict(found)
