"""Stops a child whose parent is gone, however that went.

Run by path, `python guard.py GRACE`: standard input says the child's process id, and ends when the
parent does. Linux could send a signal by itself (prctl(2), PR_SET_PDEATHSIG), but to one process,
once, and a worker without its broker never ends on SIGTERM alone. The price is a small Python
process beside every child.
"""

import os
import signal
import sys
import time
from contextlib import suppress

_PAUSE = 0.1  # seconds between two looks


def main(grace: float) -> None:
    """Wait until the parent is gone, then stop the child, and its group after the grace."""
    said = sys.stdin.readline()
    sys.stdin.read()
    if said:
        _stop(int(said), grace)


def _stop(pid: int, grace: float) -> None:
    end = time.monotonic() + grace
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        while time.monotonic() < end:
            os.kill(pid, 0)
            time.sleep(_PAUSE)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(float(sys.argv[1]))
