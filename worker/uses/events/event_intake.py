"""The process that reads event notifications, which `worker run` starts and supervises."""

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from threading import Event, Thread
from typing import Any, NoReturn

import structlog

from valetkey.delivery.redis_clients import open_redis
from worker import clock
from worker.app import job_context
from worker.base.clock_watch import WATCH
from worker.base.jobs import HANG_TIME
from worker.base.progress import (
    READY_SECONDS,
    STOP_TIMEOUT,
    SUPERVISOR_VARIABLE,
    report_progress,
    stop_with_supervisor,
)
from worker.broker.queues import (
    Heartbeat,
    own_identity,
    write_heartbeat,
)
from worker.context import settings
from worker.logs import configure_logging, log_all_output
from worker.uses.events.queue_readers import QueueReaders
from worker.uses.feature import EVENTS_PREFIX, EVENTS_ROLE

_WATCH_INTERVAL = 5.0  # seconds
_STOP_SECONDS = STOP_TIMEOUT - 1  # before the supervisor kills the process

log = structlog.get_logger()


def end_hung_process(idle_seconds: Callable[[], float], stop: Event) -> NoReturn:
    """End this process after HANG_TIME without progress, or if it hangs after stop is set.

    Run it in a daemon thread. A database that is frozen, or behind a network that is gone, may
    hold the other threads for ever. Nothing is lost: messages that were not deleted come again.
    """
    while not stop.wait(_WATCH_INTERVAL):
        if (idle := idle_seconds()) >= HANG_TIME:
            break
        if idle >= READY_SECONDS:  # the loop that writes heartbeats may hang as well
            report_progress(f"no progress for {idle:.0f} s, as if the database or SQS hung")
    else:
        time.sleep(_STOP_SECONDS)
    log.error("intake_hangs", seconds=int(idle_seconds()))
    os._exit(1)  # the threads that hang would keep it from ending in any other way


_REDIS_TIMEOUT = 3.0  # seconds


def main(level: str) -> None:
    """Read the queues until SIGTERM or SIGINT, and write heartbeats as Celery's workers do."""
    configure_logging(logging.getLevelNamesMapping()[level])
    log_all_output()
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, lambda *_: stop.set())
    stop_with_supervisor()
    client: Any = open_redis(
        settings().result_url.get_secret_value(),
        retries=1,
        socket_timeout=_REDIS_TIMEOUT,
        socket_connect_timeout=_REDIS_TIMEOUT,
    )
    readers = QueueReaders(job_context())
    watch = (readers.idle_seconds, stop)
    Thread(target=end_hung_process, args=watch, name="watchdog", daemon=True).start()
    WATCH.start(settings())
    started_at = clock.now()
    supervisor = int(os.environ.get(SUPERVISOR_VARIABLE, os.getppid()))
    name = f"{EVENTS_ROLE}@{socket.gethostname()}"

    def beat(queues: Sequence[str]) -> None:
        names = [f"{EVENTS_PREFIX}{queue}" for queue in queues]
        own = name, names, supervisor, os.getpid(), started_at
        heartbeat = Heartbeat(*own, clock.now(), WATCH.problems, *own_identity(EVENTS_ROLE))
        write_heartbeat(client, heartbeat)

    readers.run(stop, beat)
    client.close()


if __name__ == "__main__":
    main(sys.argv[1])
