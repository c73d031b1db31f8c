import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

_PAUSE = 0.02  # seconds between two looks


def wait_until(predicate: Callable[[], Value], seconds: float = 10, what: str = "") -> Value:
    """Give the predicate's first true value; fail with its last one after the seconds."""
    end = time.monotonic() + seconds
    while not (value := predicate()):
        if time.monotonic() > end:
            name = what or getattr(predicate, "__qualname__", repr(predicate))
            raise AssertionError(f"{name}: still {value!r} after {seconds:g} s")
        time.sleep(_PAUSE)
    return value
