"""The result of a check of `doctor`, the attempt to call a service for one, and overdue work."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, TypeVar

from sqlalchemy import Connection

from valetkey.units import format_duration
from worker.base.jobs import call_with_timeout
from worker.cli.service_failures import ServiceUnusable
from worker.doctor import backlog
from worker.doctor.metric_families import Family
from worker.proof.verify.stored_rows import Problem

State = Literal["ok", "warn", "fail"]


class Check(NamedTuple):
    """The result of one check: its subject, its state, and a hint for the operator if not ok."""

    check: str
    state: State
    message: str
    hint: str | None = None

    @property
    def runbook(self) -> str | None:
        """The page for the operator if the state is not ok."""
        page = _FULL_RUNBOOK if _is_full(self.message) else RUNBOOKS.get(self.check)
        return f"docs/{page}.md" if page and self.state != "ok" else None


_FULL_RUNBOOK = "runbooks/full"
_is_full = re.compile(r"(disk|memory) is full|maxmemory").search
RUNBOOKS = {
    "settings": "reference/settings",
    "database": "runbooks/lost",
    "broker": "runbooks/lost",
    "results": "runbooks/lost",
    "workers": "runbooks/service",
    "probe": "runbooks/service",
    "queues": "runbooks/backlog",
    "messages": "runbooks/messages",
    "webhooks": "runbooks/endpoint-down",
    "endpoints": "runbooks/endpoint-down",
    "manifests": "runbooks/endpoint-down",
    "upkeep": "runbooks/quota",
    "settlements": "runbooks/quota",
    "buckets": "runbooks/storage",
    "permissions": "reference/permissions",
    "uploads": "runbooks/storage",
    "events": "runbooks/storage",
    "denials": "runbooks/leaked-link",
    "audit": "runbooks/log",
    "config": "runbooks/log",
    "role": "operating",
    "partitions": "operating",
    "tenants": "security",
}
"""The page that helps with a check that failed or warns, below docs/."""


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


class WaitingWork(NamedTuple):
    """Work that may wait for up to a limit: how `doctor`, `metrics` and alert rules see it.

    since reads since when the oldest waits, None if there is none. late is the message of the check
    beyond the limit; {age} is for how long the oldest has waited. waiting is the message up to the
    limit, if it is not that for none. metric is the age in seconds, without a name
    if there is no metric of it.
    """

    check: str
    since: Callable[[Connection], datetime | None]
    limit: timedelta
    none: str
    late: str
    hint: str
    state: State = "warn"
    waiting: str | None = None
    metric: Family = Family("", "")


OVERDUE_AFTER = timedelta(minutes=5)
_OLDEST_WEBHOOK = "the oldest pending one was queued {age} ago"
WEBHOOKS = WaitingWork(
    "webhooks",
    backlog.oldest_webhook_time,
    OVERDUE_AFTER,
    "none is pending",
    _OLDEST_WEBHOOK,
    "python -m worker webhooks list --state pending",
    waiting=_OLDEST_WEBHOOK,
)
EXPIRED_GRANTS = WaitingWork(
    "upkeep",
    backlog.earliest_reservation_expiry,
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
ABANDONED_UPLOADS = WaitingWork(
    "uploads",
    backlog.oldest_abandoned_upload,
    timedelta(minutes=15),  # by then an upload that no grant uses is usually aborted
    "none is left behind in storage",
    "uploads that no grant uses are in storage, the oldest for {age}",
    "the log of the upkeep worker says why: aborts_postponed",
)
ENDED_SLOTS = WaitingWork(
    "settlements",
    backlog.oldest_ended_slot,
    timedelta(days=1),  # storage may be unreachable for hours
    "upload slots that ended are settled",
    "upload slots have waited {age} for storage, to be settled or for the second look",
    "the log of the upkeep worker has the reason, as settlement_postponed",
    metric=Family(
        "unsettled_oldest_age_seconds",
        "Time for which ended upload slots wait to be settled or looked at again, 0 if none do.",
    ),
)


CONFIG_DIFFERENCES = Family(
    "config_differences",
    "Rows and columns of the tenant config that differ from the signed log of its changes.",
)


def check_config(differences: Sequence[Problem]) -> Check:
    """Check that the config in force is the one that the log of its changes gives."""
    if not differences:
        return Check("config", "ok", "it is the one that the log of its changes gives")
    text = f"differences from the log of changes: {len(differences):,}; the first: {differences[0]}"
    hint = "python -m worker audit verify"
    return Check("config", "fail", text, hint)


def check_waiting(work: WaitingWork, oldest: datetime | None, now: datetime) -> Check:
    """Check that no work waits for too long. oldest is since when, None if there is none."""
    if oldest is None:
        return Check(work.check, "ok", work.none)
    age = now - oldest
    if age <= work.limit:
        text = work.waiting or work.none
        return Check(work.check, "ok", text.format(age=format_duration(age)))
    return Check(work.check, work.state, work.late.format(age=format_duration(age)), work.hint)
