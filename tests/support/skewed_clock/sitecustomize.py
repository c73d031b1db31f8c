"""Python imports this at its start, if PYTHONPATH has this folder: the clock is wrong.

VALETKEY_TEST_SKEW_FILE names a file with the seconds by which the service's clock is ahead. With
VALETKEY_TEST_SKEW_ALL, those of producers and of the broker are as far ahead.
"""

import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3]))
from worker import clock

_file = Path(os.environ["VALETKEY_TEST_SKEW_FILE"])


def _now() -> datetime:
    text = ""
    while not text:  # who writes the file truncates it first
        text = _file.read_text()
    return datetime.now(UTC) + timedelta(seconds=float(text))


clock.now = _now

if os.environ.get("VALETKEY_TEST_SKEW_ALL"):
    from worker.base import clock_watch

    clock_watch._broker_time = lambda url: clock.now()  # noqa: ARG005 - as called
    time.time = lambda: clock.now().timestamp()
    time.time_ns = lambda: int(time.time() * 10**9)
