"""Temporary."""

from collections.abc import Callable
from datetime import UTC, tzinfo
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import click

from worker.commands.options import since_option, tenant_option, until_option
from worker.db.audit.filters import GrantFilter

Command = TypeVar("Command", bound=Callable[..., Any])


def filter_options(command: Command) -> Command:
    """Add the filters of the audit log to a command."""
    for option in (
        until_option,
        since_option,
        click.option("--decision", "decisions", multiple=True),
        click.option("--requester"),
        click.option("--prefix"),
        click.option("--key", "object_key"),
        click.option("--kind"),
        click.option("--bucket", "buckets", multiple=True),
        tenant_option,
    ):
        command = option(command)
    return command


def make_filter(values: dict[str, Any]) -> GrantFilter:
    """Return the filter of a command's parameters."""
    return GrantFilter(**values)


def zone_option(command: Command) -> Command:
    """Add --tz."""

    def parse(_context: click.Context, _option: click.Parameter, name: str) -> tzinfo:
        try:
            return UTC if name == "UTC" else ZoneInfo(name)
        except (ValueError, OSError, KeyError):
            raise click.BadParameter(f"there is no time zone {name!r}") from None

    return click.option("--tz", "zone", default="UTC", callback=parse)(command)
