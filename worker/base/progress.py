"""Reports the progress of a worker process to its supervisor, `worker run`, and ends with it."""

import json
import os
import signal
import time
from contextlib import suppress
from functools import cache
from threading import Thread

import structlog

PROGRESS_VARIABLE = "VALETKEY_PROGRESS_FD"
"""The environment variable that names the file descriptor of the pipe to the supervisor."""

SUPERVISOR_VARIABLE = "VALETKEY_SUPERVISOR_PID"
"""The environment variable with the process id of a worker's supervisor."""

STOP_TIMEOUT = 15  # seconds between SIGTERM and SIGKILL; Celery waits 10 s for running tasks
READY_SECONDS = 20.0  # as long as a heartbeat is listed

log = structlog.get_logger()


def report_progress(problem: str | None = None) -> None:
    """Report that the part of this process that takes work makes progress. Never waits.

    problem says why it takes no work at present. Call this from that part itself: a thread of its
    own would report the progress of one that hangs.
    """
    descriptor = _descriptor()
    if descriptor is not None:
        with suppress(OSError):  # the supervisor is frozen, and the pipe full; or it has ended
            os.write(descriptor, f"{json.dumps(problem)}\n".encode())


@cache
def _descriptor() -> int | None:
    text = os.environ.pop(PROGRESS_VARIABLE, None)
    return None if text is None else int(text)


def stop_with_supervisor() -> None:
    """Stop this worker, within seconds, if its supervisor ends before it.

    Nobody would restart or stop it any more. A thread looks, because a worker without its broker
    does not run its timers, and does not end on SIGTERM either.
    """
    supervisor = os.environ.get(SUPERVISOR_VARIABLE)
    if supervisor is not None:
        Thread(target=_watch_supervisor, args=(int(supervisor),), daemon=True).start()


def _watch_supervisor(pid: int) -> None:
    while os.getppid() == pid:
        time.sleep(1)
    log.error("supervisor_ended", supervisor=pid)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_TIMEOUT)
    os.kill(os.getpid(), signal.SIGKILL)
