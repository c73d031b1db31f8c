"""What operators type about quotas, read; a command ends with a sentence where it means nothing."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from valetkey.refusals import Metric, Window
from valetkey.sizes import parse_duration
from worker.core.fields import nearest
from worker.core.quota_table import quota
from worker.core.quotas import METRICS, WINDOWS, resets_at
from worker.core.tenancy import Declared, Quota, Tenant

Command = TypeVar("Command", bound=Callable[..., Any])

_LIVE = timedelta(days=1)  # the window has no end, so what it is raised by gets one


def of_a_quota(command: Command) -> Command:
    """Add TENANT METRIC WINDOW to a command."""
    metric = click.argument("metric", type=click.Choice(METRICS))
    window = click.argument("window", type=click.Choice(WINDOWS))
    return click.argument("tenant")(metric(window(command)))


def declared_tenant(declared: Declared, name: str) -> Tenant:
    """The tenant of this name."""
    if name in declared.tenants:
        return declared.tenants[name]
    meant = nearest(name, declared.tenants)
    question = f": did you mean {meant}?" if meant else "."
    raise click.ClickException(f"No tenant {name!r} is declared{question}")


def read_quota(
    metric: Metric, window: Window, limit: str, warn: str | int | None = None, *, word: str
) -> Quota:
    """A quota of this limit, which the command calls by that word."""
    try:
        return quota(metric, window, limit, warn)
    except ValidationError as error:
        said = error.errors(include_url=False, include_input=False)[0]
        named = word if said["loc"] == ("limit",) else "--warn"
        raise click.BadParameter(said["msg"], param_hint=named) from None


def end_of_raise(
    window: Window, duration: str | None, until: datetime | None, now: datetime
) -> datetime:
    """Until when a quota is raised: as --for or --until says, else until its window resets."""
    if duration is not None and until is not None:
        raise click.UsageError("Give --for or --until, and not both.")
    if duration is None and until is None:
        until = resets_at(window, now)
    try:
        end = until or now + (timedelta(seconds=parse_duration(duration)) if duration else _LIVE)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(str(error), param_hint="--for") from None
    if end <= now:
        raise click.UsageError("That is over already: --for 2h is a length of time from now on.")
    return end
