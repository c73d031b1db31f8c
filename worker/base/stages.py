"""Times the stages of a request, for histograms and traces."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from worker.base.tracing import span

Stage = Literal["authenticate", "decide", "sign", "database", "commit"]
Histogram = Literal["queue_wait", "stage", "request", "webhook_delay"]


def observe(_histogram: Histogram, _label: str, _seconds: float) -> None:
    """Record a duration. label is a queue or a stage; empty for webhook_delay."""


@contextmanager
def stage(name: Stage) -> Iterator[None]:
    """Time a stage of the request that this thread works on, as a span of its trace as well."""
    started = time.perf_counter()
    try:
        with span(name):
            yield
    finally:
        observe("stage", name, time.perf_counter() - started)
