"""The frame around a message, checked before Celery believes it.

Celery takes headers and body apart outside of any task, where what does not fit ends the whole
worker, and the message is handed out again to end the next one. So it is thrown away here.
"""

from collections.abc import Callable, Mapping
from typing import Any

from celery.exceptions import InvalidTaskError
from celery.worker.consumer import Consumer
from kombu.exceptions import KombuError

MAX_ID_LENGTH = 255


class GuardedConsumer(Consumer):  # type: ignore[misc] # Celery's Consumer has no types
    """A consumer that throws away what no producer's library would send."""

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Put the check before Celery's own handler."""
        handle: Callable[[Any], Any] = super().create_task_handler(*args, **kwargs)

        def check_and_handle(message: Any) -> Any:
            problem = _problem_of(message)
            if problem is None:
                return handle(message)
            return self.on_invalid_task(None, message, InvalidTaskError(problem))

        return check_and_handle


def _problem_of(message: Any) -> str | None:
    try:
        body = message.payload
    except (KombuError, ValueError):
        return None  # not JSON: Celery itself throws that away, and says so
    return find_problem(message.headers, body)


def find_problem(headers: Any, body: Any) -> str | None:
    """Say what is wrong with a frame of Celery's message protocol 2, or None where nothing is.

    Source: Celery, "Message Protocol", version 2.
    """
    if not isinstance(headers, Mapping):
        return "headers are an object"
    for name, fits in _HEADERS.items():
        if not fits(headers.get(name)):
            return f"header {name} is not what Celery sends"
    match body:
        case [list(), dict(), dict() | None]:
            return None
    return "a body is a list of arguments, an object of keyword arguments, and options"


def _text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_LENGTH


def _text_or_nothing(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _count_or_nothing(value: Any) -> bool:
    return value is None or (type(value) is int and value >= 0)


def _limits(value: Any) -> bool:
    match value:
        case None | [None | int() | float(), None | int() | float()]:
            return True
    return False


_HEADERS: dict[str, Callable[[Any], bool]] = {
    "task": _text,
    "id": _text,
    "root_id": _text_or_nothing,
    "parent_id": _text_or_nothing,
    "group": _text_or_nothing,
    "shadow": _text_or_nothing,
    "eta": _text_or_nothing,
    "expires": _text_or_nothing,
    "retries": _count_or_nothing,
    "timelimit": _limits,
    "argsrepr": _text_or_nothing,
    "kwargsrepr": _text_or_nothing,
    "origin": _text_or_nothing,
}
