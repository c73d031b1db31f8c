"""What the checks of `doctor` share: its pages, and the attempt to call a service for one."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from traceback import extract_tb
from typing import TypeVar

from sqlalchemy import Connection, func, select

from models import Reservation
from worker.cli.service_failures import ServiceUnusable
from worker.features import contributions
from worker.shared.monitoring import OVERDUE_AFTER, Check, Family, State, WaitingWork
from worker.shared.threads import call_with_timeout

_FULL_RUNBOOK = "runbooks/full"
_is_full = re.compile(r"(disk|memory) is full|maxmemory").search


def find_runbook(check: Check) -> str | None:
    """Return the page for the operator if the state of a check is not ok."""
    if check.state == "ok":
        return None
    page = _FULL_RUNBOOK if _is_full(check.message) else contributions("checks")[check.check]
    return f"docs/{page}.md"


_CLOCK_HINT = "synchronize the clocks with NTP"
WORKER_PROBLEMS: Mapping[str, tuple[State, str]] = {
    "own_clock": ("fail", f"the worker takes no messages: {_CLOCK_HINT}"),
    "server_clock": ("warn", _CLOCK_HINT),
    "children": ("fail", "the worker replaces them soon; its log has them as child_killed"),
}
"""The problems that workers report in heartbeats, by code: state and hint of `doctor`."""


def check_worker(worker: str, code: str, text: str) -> Check:
    """Report a problem that a worker has in its heartbeat."""
    state, hint = WORKER_PROBLEMS.get(code, ("warn", "it is of another release"))
    return Check("workers", state, f"{worker}: {text}", hint)


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


def place_of(error: Exception) -> str:
    """Return the type of an error and where it was raised. Its text may contain a secret."""
    frame = extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"


def earliest_reservation_expiry(connection: Connection) -> datetime | None:
    """Return the earliest expiry of a reservation; None if there are no reservations.

    A time in the past means that the reservation has expired and is not released yet.
    """
    return connection.scalar(select(func.min(Reservation.expires_at)))


EXPIRED_GRANTS = WaitingWork(
    "upkeep",
    earliest_reservation_expiry,
    OVERDUE_AFTER,
    "expired grants are released",
    "grants that expired {age} ago still count as live",
    "no upkeep worker releases them: python -m worker run --only upkeep",
    "fail",
    metric=Family(
        "release_overdue_seconds",
        "Time since the end of the oldest grants that still count as live, 0 if none do.",
    ),
)
