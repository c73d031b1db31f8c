"""Whether the service is well, decided from what was found: what is said, and what to do."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from valetkey.wire.messages import BULK_QUEUE, INTERACTIVE_QUEUE
from worker.core.apply.plan import config_warnings
from worker.core.quotas.status import format_duration
from worker.core.tenants.config import TenantConfig

UPKEEP_QUEUE = "valetkey.upkeep"
OVERDUE = timedelta(minutes=5)
"""What waits longer than this after its time, nobody works on."""

State = Literal["ok", "warn", "fail"]


class Check(NamedTuple):
    """What was looked at, how it is, and what to do where it is not well."""

    check: str
    state: State
    message: str
    hint: str | None = None


def check_tenants(declared: TenantConfig, now: datetime) -> Iterator[Check]:
    """Who is declared, and who of them could be impersonated or has no key to use."""
    if not declared.tenants:
        yield Check("tenants", "warn", "none is declared", "python -m worker apply tenants.toml")
        return
    found = config_warnings(declared, now)
    yield from (Check("tenants", "warn", risk.message, risk.hint) for risk in found)
    if not found:
        text = f"{len(declared.tenants):,} declared, who all sign with keys that last"
        yield Check("tenants", "ok", text)


def check_workers(consumers: Mapping[str, Sequence[str]]) -> Iterator[Check]:
    """Which queues are worked on: consumers are names of workers by queue."""
    for queue, only in (
        (INTERACTIVE_QUEUE, "issue"),
        (BULK_QUEUE, "issue"),
        (UPKEEP_QUEUE, "upkeep"),
    ):
        workers = consumers.get(queue, ())
        if workers:
            yield Check("workers", "ok", f"{queue} is consumed by {', '.join(sorted(workers))}")
        else:
            text = f"no worker answers that consumes {queue}"
            yield Check("workers", "warn", text, f"python -m worker run --only {only}")


def check_webhooks(oldest: datetime | None, now: datetime) -> Check:
    """Whether webhooks are sent: oldest is when the oldest unsent one was queued."""
    if oldest is None:
        return Check("webhooks", "ok", "none is pending")
    text = f"the oldest pending one was queued {format_duration(now - oldest)} ago"
    if now - oldest <= OVERDUE:
        return Check("webhooks", "ok", text)
    return Check("webhooks", "warn", text, "python -m worker deliveries list --state pending")


def check_cleanup(first_end: datetime | None, now: datetime) -> Check:
    """Whether what has lapsed is released: first_end is of the first hold that is still there."""
    if first_end is None or now - first_end <= OVERDUE:
        return Check("upkeep", "ok", "what has lapsed is released")
    text = f"grants that lapsed {format_duration(now - first_end)} ago still count as live"
    hint = "nothing sweeps: python -m worker run --only upkeep"
    return Check("upkeep", "fail", text, hint)
