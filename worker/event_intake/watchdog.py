"""Ends a process that hangs, so that its supervisor starts it again."""

import os
import time
from collections.abc import Callable
from threading import Event
from typing import NoReturn

import structlog

from worker.jobs.single_flight import HANG_TIME
from worker.supervisor import STOP_TIMEOUT

_INTERVAL = 5.0  # seconds
_STOP_SECONDS = STOP_TIMEOUT - 1  # before the supervisor kills the process

log = structlog.get_logger()


def end_hung_process(idle_seconds: Callable[[], float], stop: Event) -> NoReturn:
    """End this process after HANG_TIME without progress, or if it does not stop when told to.

    Run it in a daemon thread. A database that is frozen, or behind a network that is gone, may
    hold the other threads for ever. Nothing is lost: messages that were not deleted come again.
    """
    while not stop.wait(_INTERVAL):
        if idle_seconds() >= HANG_TIME:
            break
    else:
        time.sleep(_STOP_SECONDS)
    log.error("intake_hangs", seconds=int(idle_seconds()))
    os._exit(1)  # the threads that hang would keep it from ending in any other way
