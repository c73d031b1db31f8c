"""Checks the body of a message: the arguments of a task, as JSON."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from worker.broker.headers import InvalidMessage

# A request has about eight levels. The worker copies a body to another process, where more than
# some hundred levels end it.
MAX_DEPTH = 32
# A message of 1,000 items has fewer. Each costs more than 50 bytes of memory, and in JSON only two.
MAX_CONTAINERS = 20_000
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
# Celery would send the answer, in clear, to other tasks.
_UNUSED_OPTIONS = ("callbacks", "errbacks", "chain", "chord")


def check_size(body: bytes) -> None:
    """Refuse JSON that would take much more memory than its text. Raises InvalidMessage."""
    if _count_containers(body) > MAX_CONTAINERS and (
        _count_containers(_STRING.sub(b"", body)) > MAX_CONTAINERS
    ):
        raise InvalidMessage("body")


def check_call(call: Any) -> None:
    """Refuse decoded JSON that is not a call of a task without follow-up. Raises InvalidMessage."""
    match call:
        case [list(), dict(), dict() | None as options]:
            pass
        case _:
            raise InvalidMessage("body")
    for name in _UNUSED_OPTIONS:
        if options and options.get(name):
            raise InvalidMessage(name)
    _check_depth(call)


def _count_containers(text: bytes) -> int:
    return text.count(b"[") + text.count(b"{")


def _check_depth(call: Any) -> None:
    level: list[Any] = [call]
    for _ in range(MAX_DEPTH):
        level = [value for parent in level for value in _children(parent)]
        if not level:
            return
    raise InvalidMessage("body")


def _children(parent: Any) -> Iterable[Any]:
    values = parent.values() if isinstance(parent, Mapping) else parent
    return (value for value in values if isinstance(value, list | dict))
