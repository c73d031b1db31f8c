"""Reports the progress of a worker process to the `worker run` that started it."""

import json
import os
from contextlib import suppress
from functools import cache

PROGRESS_VARIABLE = "VALETKEY_PROGRESS_FD"
"""The environment variable that names the file descriptor of the pipe to the supervisor."""


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
