"""The durations of requests and webhooks that all workers added up, in the result store.

They are the numbers of histograms, in one hash. Its fields are `HISTOGRAM:LABEL:BOUND`, where BOUND
is that of a bucket in microseconds, `inf` or `sum`. Each label is one of a closed list.
"""

import re
import threading
from collections.abc import Callable, Mapping
from typing import Any, get_args

import redis
import structlog

from valetkey.delivery.causes import describe_cause
from valetkey.wire import BULK_QUEUE, INTERACTIVE_QUEUE
from worker.base.stages import BOUNDS, Histogram, Series, StageName, add_sums, take_sums

LATENCIES = "valetkey.latencies"

_QUEUES = (INTERACTIVE_QUEUE, BULK_QUEUE)
LABELS: Mapping[Histogram, tuple[str, ...]] = {
    "queue_wait": _QUEUES,
    "stage": get_args(StageName),
    "request": _QUEUES,
    "webhook_delay": ("",),
}
"""The labels of each histogram."""

SERIES: tuple[Series, ...] = tuple((name, label) for name in LABELS for label in LABELS[name])
_PLACES = (*(str(int(bound * 1_000_000)) for bound in BOUNDS), "inf", "sum")
_FIELDS = {
    f"{':'.join(series)}:{name}".encode(): (series, place)
    for series in SERIES
    for place, name in enumerate(_PLACES)
}
_COUNT = re.compile(rb"[0-9]{1,18}")

log = structlog.get_logger()


def flush(client: Any) -> str | None:
    """Add the sums of this process to those in the result store; return a problem, or None.

    If that fails, they are added by the next call. Fields that others wrote are left as they are.
    """
    sums = take_sums()
    if not sums:
        return None
    try:
        with client.pipeline() as pipe:  # a transaction: all of them, or none
            for series, numbers in sums.items():
                for place, number in numbers:
                    pipe.hincrby(LATENCIES, f"{':'.join(series)}:{_PLACES[place]}", number)
            pipe.execute(raise_on_error=False)
    except (redis.RedisError, OSError) as error:
        add_sums(sums)
        return describe_cause(error)
    return None


def read_latencies(client: Any) -> dict[Series, list[int]]:
    """Return the numbers of each series: of its buckets, and the sum in microseconds.

    Ignores what no worker can have written: others can write there, too. Raises RedisError.
    """
    found = {series: [0] * len(_PLACES) for series in SERIES}
    if client.type(LATENCIES) == b"hash":
        for field, count in zip(_FIELDS, client.hmget(LATENCIES, list(_FIELDS)), strict=True):
            if count is not None and _COUNT.fullmatch(count):
                series, place = _FIELDS[field]
                found[series][place] = int(count)
    return found


class LatencyFlusher:
    """A thread that flushes the sums of this process every few seconds, and at its end."""

    interval = 5.0

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="latencies", daemon=True)

    def start(self) -> None:
        """Start, in the process whose durations are recorded: threads do not survive a fork."""
        self._thread.start()

    def stop(self) -> None:
        """If it was started, flush for the last time, but wait no longer than one interval."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(self.interval)

    def _run(self) -> None:
        client, problem = self._connect(), None
        is_stopping = False
        while not is_stopping:
            is_stopping = self._stop.wait(self.interval)
            last, problem = problem, flush(client)
            if problem not in {None, last}:
                log.warning("latencies_not_written", problem=problem)
