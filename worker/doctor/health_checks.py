"""Health checks for `doctor`: each examines facts about the service and returns a Check."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, TypeVar

from valetkey.units import format_duration
from valetkey.wire.messages import BULK_QUEUE, INTERACTIVE_QUEUE
from worker.base.jobs import TurnKey, call_with_timeout
from worker.broker.queues import UPKEEP_QUEUE, WAITING_LANES
from worker.cli.service_failures import ServiceUnusable
from worker.core.tenant_config import TenantConfig
from worker.ledger.backlog import FailedManifests, RefusedUploads
from worker.setting_names import UnknownVariable
from worker.tenants.apply_plan import config_warnings
from worker.webhooks.webhook_rules import Circuit

OVERDUE_AFTER = timedelta(minutes=5)
"""The age of unfinished work from which a check reports it."""

_SETTLED_AFTER = timedelta(days=1)  # storage may be unreachable for hours

FAILED_SINCE = timedelta(days=1)
"""The time for which a failed manifest is reported."""

ABANDONED_FOR = timedelta(minutes=15)
"""The age from which an upload that no grant uses is reported: by then it is usually aborted."""

State = Literal["ok", "warn", "fail"]

_NOT_ISSUED = "requests wait there, and time out"
_CONSUMERS: tuple[tuple[str, str, State, str], ...] = (
    (INTERACTIVE_QUEUE, "issue", "fail", _NOT_ISSUED),
    (BULK_QUEUE, "issue", "fail", _NOT_ISSUED),
    (UPKEEP_QUEUE, "upkeep", "warn", "webhooks, manifests and expired grants wait"),
)


class Check(NamedTuple):
    """The result of one check: its subject, its state, and a hint for the operator if not ok."""

    check: str
    state: State
    message: str
    hint: str | None = None


def check_tenants(config: TenantConfig, now: datetime) -> Iterator[Check]:
    """Warn of a config without tenants, and of tenants with missing, expired or expiring keys.

    Warns of tenants that trust the queue, too: anyone who can write to it can impersonate them.
    """
    if not config.tenants:
        hint = "python -m worker apply tenants.toml"
        yield Check("tenants", "warn", "no tenant is configured", hint)
        return
    warnings = config_warnings(config, now)
    yield from (Check("tenants", "warn", warning.message, warning.hint) for warning in warnings)
    if not warnings:
        text = f"{len(config.tenants):,} configured; all sign with keys that do not expire soon"
        yield Check("tenants", "ok", text)


def check_consumers(consumers: Mapping[str, Sequence[str]]) -> Iterator[Check]:
    """Check that each queue has a worker. consumers are names of workers by queue.

    Without an issuing worker every request times out, which is a failure. Without an upkeep worker
    grants are issued, and what waits is made up for when one starts: that is a warning, until
    check_cleanup finds work that is overdue.
    """
    for queue, role, state, effect in _CONSUMERS:
        workers = consumers.get(queue, ())
        if workers:
            yield Check("workers", "ok", f"{queue} is consumed by {', '.join(sorted(workers))}")
        else:
            hint = f"python -m worker run --only {role}"
            text = f"no worker is alive that consumes the queue {queue}: {effect}"
            yield Check("workers", state, text, hint)


def check_eviction(server: str, policy: str | None) -> Iterator[Check]:
    """Warn of a server that drops keys when its memory is full. policy is None if unknown."""
    if policy not in {None, "noeviction"}:
        lost = "requests" if server == "broker" else "results"
        text = f"maxmemory-policy is {policy}: a full server drops waiting {lost}"
        yield Check(server, "warn", text, "set maxmemory-policy noeviction in the server's config")


def check_refused_uploads(refused: Sequence[RefusedUploads]) -> Iterator[Check]:
    """Warn of bucket profiles whose storage has refused to start multipart uploads."""
    for bucket in refused:
        text = f"{bucket.name}: refused {bucket.number:,} in the last day; newest: {bucket.problem}"
        hint = "docs/operating.md, Storage refuses; python -m worker audit list --decision refused"
        yield Check("uploads", "warn", text, hint)


def check_variables(unknown: Sequence[UnknownVariable]) -> Iterator[Check]:
    """Warn of variables that nothing reads."""
    for name, suggestion in unknown:
        hint = f"did you mean {suggestion}?" if suggestion else "docs/operating.md lists all"
        yield Check("settings", "warn", f"{name} is unknown, and has no effect", hint)


def check_queues(lengths: Mapping[str, int], *, is_served: bool) -> Check:
    """Fail if messages wait for their turn and no process serves them.

    lengths are those of the queues and of the lanes, by key.
    """
    text = ", ".join(f"{length:,} messages in {key}" for key, length in lengths.items())
    waiting = sum(length for key, length in lengths.items() if key.startswith(f"{WAITING_LANES}:"))
    if is_served or not waiting:
        return Check("queues", "ok", text)
    text = f"{waiting:,} messages wait for their turn, and no process serves them"
    hint = "restart the `run` that hangs, or start another: python -m worker run --only issue"
    return Check("queues", "fail", text, hint)


def check_messages(discarded: Mapping[str, int], dead_letters: int) -> Check:
    """Warn of messages on which a worker failed. discarded counts messages by their invalid part.

    Discarded messages are the fault of their senders, so they alone are no warning.
    """
    counts = ", ".join(f"{count:,} for {part}" for part, count in sorted(discarded.items()))
    text = f"discarded so far: {counts}" if counts else "none was discarded"
    if not dead_letters:
        return Check("messages", "ok", text)
    text = f"{dead_letters} set aside because a worker failed on them; {text}"
    return Check("messages", "warn", text, "python -m worker deadletters list")


def check_webhooks(oldest: datetime | None, now: datetime) -> Check:
    """Warn if webhooks are overdue. oldest is the time at which the oldest pending one was queued.

    oldest is None if no webhook is pending.
    """
    if oldest is None:
        return Check("webhooks", "ok", "none is pending")
    text = f"the oldest pending one was queued {format_duration(now - oldest)} ago"
    if now - oldest <= OVERDUE_AFTER:
        return Check("webhooks", "ok", text)
    return Check("webhooks", "warn", text, "python -m worker deliveries list --state pending")


def check_circuits(circuits: Mapping[TurnKey, Circuit], now: datetime) -> Iterator[Check]:
    """Warn of endpoints that are not called for a while, because they failed repeatedly."""
    for (tenant, endpoint), circuit in sorted(circuits.items()):
        if circuit.is_open(now) and circuit.open_until is not None:
            pause = format_duration(circuit.open_until - now)
            text = f"{tenant}/{endpoint}: paused for {pause} after {circuit.failures} failures"
            hint = f"python -m worker deliveries list --state pending --tenant {tenant}"
            yield Check("endpoints", "warn", text, hint)


def check_cleanup(next_expiry: datetime | None, now: datetime) -> Check:
    """Fail if expired grants are not released. next_expiry is the earliest end of a reservation.

    next_expiry is None if there are no reservations.
    """
    if next_expiry is None or now - next_expiry <= OVERDUE_AFTER:
        return Check("upkeep", "ok", "expired grants are released")
    text = f"grants that expired {format_duration(now - next_expiry)} ago still count as live"
    hint = "no upkeep worker releases them: python -m worker run --only upkeep"
    return Check("upkeep", "fail", text, hint)


def check_manifests(failed: FailedManifests) -> Check:
    """Warn of manifests that have failed within FAILED_SINCE, with the newest problem."""
    if not failed.number:
        return Check("manifests", "ok", "none has failed in the last day")
    text = f"{failed.number:,} failed in the last day; the newest: {failed.problem}"
    return Check("manifests", "warn", text, "python -m worker deliveries manifests --state failed")


def check_abandoned_uploads(oldest: datetime | None, now: datetime) -> Check:
    """Warn if uploads that no grant uses cannot be aborted. oldest is when the first was started.

    oldest is None if there are none.
    """
    if oldest is None or now - oldest <= ABANDONED_FOR:
        return Check("uploads", "ok", "none is left behind in storage")
    text = (
        f"uploads that no grant uses are in storage, the oldest for {format_duration(now - oldest)}"
    )
    hint = "the log of the upkeep worker says why: aborts_postponed"
    return Check("uploads", "warn", text, hint)


def check_settlements(oldest: datetime | None, now: datetime) -> Check:
    """Warn if storage does not tell what ended upload slots stored. oldest is since when.

    oldest is None if none wait.
    """
    if oldest is None or now - oldest <= _SETTLED_AFTER:
        return Check("settlements", "ok", "upload slots that ended are settled")
    age = format_duration(now - oldest)
    text = f"upload slots have waited {age} for storage, to be settled or for the second look"
    hint = "the log of the upkeep worker has the reason, as settlement_postponed"
    return Check("settlements", "warn", text, hint)


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
    except ServiceUnusable as error:
        return failed(check, error)
    except Exception as error:  # noqa: BLE001 - each driver has exceptions of its own
        return failed(check, unusable(error))


def failed(check: str, error: ServiceUnusable) -> Check:
    """Return the failed check of a service that cannot be used."""
    return Check(check, "fail", error.message, error.cause.hint)
