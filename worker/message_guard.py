"""A check of each message's headers and body before Celery reads them.

Celery reads headers and body outside of any task. An unexpected type there ends the whole worker,
and the broker then delivers the message again, which ends the next one. The guard discards such
messages instead.
"""

from collections.abc import Callable, Mapping
from typing import Any

from celery.exceptions import InvalidTaskError
from celery.worker.consumer import Consumer
from kombu.exceptions import KombuError

MAX_ID_LENGTH = 255


class GuardedConsumer(Consumer):  # type: ignore[misc] # Celery's Consumer has no types
    """A consumer that discards messages that do not follow Celery's message protocol."""

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Return Celery's own handler, preceded by the check."""
        handle: Callable[[Any], Any] = super().create_task_handler(*args, **kwargs)

        def check_and_handle(message: Any) -> Any:
            problem = _find_message_problem(message)
            if problem is None:
                return handle(message)
            return self.on_invalid_task(None, message, InvalidTaskError(problem))

        return check_and_handle


def _find_message_problem(message: Any) -> str | None:
    try:
        body = message.payload
    except (KombuError, ValueError):
        return None  # not JSON: Celery discards the message and logs that
    return find_problem(message.headers, body)


def find_problem(headers: Any, body: Any) -> str | None:
    """Return why a message violates Celery's message protocol 2, or None if it does not.

    Source: Celery, "Message Protocol", version 2.
    """
    if not isinstance(headers, Mapping):
        return "the headers are not an object"
    for name, is_valid in _HEADERS.items():
        if not is_valid(headers.get(name)):
            return f"header {name} has a type or value that Celery does not send"
    match body:
        case [list(), dict(), dict() | None]:
            return None
    return (
        "the body is not an array of positional arguments (array), keyword arguments (object) "
        "and options (object or null)"
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_LENGTH


def _is_optional_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_optional_count(value: Any) -> bool:
    return value is None or (type(value) is int and value >= 0)


def _is_time_limits(value: Any) -> bool:
    match value:
        case None | [None | int() | float(), None | int() | float()]:
            return True
    return False


_HEADERS: dict[str, Callable[[Any], bool]] = {
    "task": _is_name,
    "id": _is_name,
    "root_id": _is_optional_text,
    "parent_id": _is_optional_text,
    "group": _is_optional_text,
    "shadow": _is_optional_text,
    "eta": _is_optional_text,
    "expires": _is_optional_text,
    "retries": _is_optional_count,
    "timelimit": _is_time_limits,
    "argsrepr": _is_optional_text,
    "kwargsrepr": _is_optional_text,
    "origin": _is_optional_text,
}
