"""Stops a child process after its parent has ended, for whatever reason.

Run by path: `python child_guard.py STOP_TIMEOUT`, in seconds. Standard input delivers the child's
process id and closes when the parent ends. Linux can send a signal at the parent's death (prctl(2),
PR_SET_PDEATHSIG), but only one signal to one process, and a worker without its broker does not end
on SIGTERM alone. The cost is one small Python process for each child.
"""

import os
import signal
import sys
import time
from contextlib import suppress

_POLL_INTERVAL = 0.1  # seconds


def main(stop_timeout: float) -> None:
    """Wait for the parent to end, then stop the child, and kill its group after the timeout."""
    pid = sys.stdin.readline()
    sys.stdin.read()
    if pid:
        _stop(int(pid), stop_timeout)


def _stop(pid: int, stop_timeout: float) -> None:
    end = time.monotonic() + stop_timeout
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        while time.monotonic() < end:
            os.kill(pid, 0)
            time.sleep(_POLL_INTERVAL)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(float(sys.argv[1]))
