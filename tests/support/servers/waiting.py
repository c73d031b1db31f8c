import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

_POLL_INTERVAL = 0.02  # seconds


def is_running(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    command = ["ps", "-o", "stat=", "-p", str(pid)]
    state = subprocess.run(command, capture_output=True, check=False).stdout
    return state.strip()[:1] not in (b"", b"Z")


def wait_until(predicate: Callable[[], Value], seconds: float = 30, what: str = "") -> Value:
    """Poll until the predicate returns a true value and return it; fail after the seconds."""
    end = time.monotonic() + seconds
    while not (value := predicate()):
        if time.monotonic() > end:
            name = what or getattr(predicate, "__qualname__", repr(predicate))
            raise AssertionError(f"{name}: still {value!r} after {seconds:g} s")
        time.sleep(_POLL_INTERVAL)
    return value
