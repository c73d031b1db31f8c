"""The result of a check of `doctor`, and the attempt to call a service for one."""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

from worker.base.jobs import call_with_timeout
from worker.cli.service_failures import ServiceUnusable

State = Literal["ok", "warn", "fail"]


class Check(NamedTuple):
    """The result of one check: its subject, its state, and a hint for the operator if not ok."""

    check: str
    state: State
    message: str
    hint: str | None = None


Result = TypeVar("Result")

CHECK_TIMEOUT = 5.0
"""The time in seconds that a server has to respond."""


def attempt(
    check: str, unusable: Callable[[BaseException], ServiceUnusable], call: Callable[[], Result]
) -> Result | Check:
    """Return what a call returns, or a failed check if it raises or takes too long.

    unusable names the service and the cause of an exception, without secrets.
    """
    try:
        return call_with_timeout(CHECK_TIMEOUT, call)
    except Exception as error:  # noqa: BLE001 - each driver has exceptions of its own
        return failed(check, error if isinstance(error, ServiceUnusable) else unusable(error))


def failed(check: str, error: ServiceUnusable) -> Check:
    """Return the failed check of a service that cannot be used."""
    return Check(check, "fail", error.message, error.cause.hint)
