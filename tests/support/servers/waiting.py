import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

_PAUSE = 0.02  # seconds between two looks


def is_running(pid: int) -> bool:
    """Tell whether a process runs; a zombie that nobody has collected yet does not."""
    command = ["ps", "-o", "stat=", "-p", str(pid)]
    said = subprocess.run(command, capture_output=True, check=False).stdout
    return said.strip()[:1] not in (b"", b"Z")


def wait_until(predicate: Callable[[], Value], seconds: float = 30, what: str = "") -> Value:
    """Give the predicate's first true value; fail with its last one after the seconds."""
    end = time.monotonic() + seconds
    while not (value := predicate()):
        if time.monotonic() > end:
            name = what or getattr(predicate, "__qualname__", repr(predicate))
            raise AssertionError(f"{name}: still {value!r} after {seconds:g} s")
        time.sleep(_PAUSE)
    return value
