"""Calls that end within a time, although the function that is called has no timeout."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

Result = TypeVar("Result")


def call_with_timeout(seconds: float, call: Callable[[], Result]) -> Result:
    """Call a function; raise TimeoutError if it takes longer than `seconds`.

    After a timeout, the call continues in a background thread until the process ends: not every
    driver has a timeout of its own.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except Exception as error:  # noqa: BLE001 - raised in the caller's thread
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future.result(timeout=seconds)
