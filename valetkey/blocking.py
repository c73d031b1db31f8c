"""Runs coroutines without an event loop, in the thread that calls them.

A coroutine that awaits only what blocks never suspends, and so needs no loop: Client is AsyncClient
over a transport that blocks. It can be used in any thread, also in one whose event loop is running.
"""

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine that never suspends, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: Result = end.value
        return result
    coroutine.close()
    raise RuntimeError("a blocking client cannot wait for an event loop")


def blocking(
    method: Callable[Parameters, Coroutine[Any, Any, Result]],
) -> Callable[Parameters, Result]:
    """Return the form of a method that blocks: the same parameters and result, without await."""

    @wraps(method)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        return run(method(*args, **kwargs))

    return call
