"""Lists the audit log of administration, without changes that are only defaults of a table."""

import re
from dataclasses import MISSING, fields
from operator import attrgetter
from typing import Any

import click

from worker.base.database_engine import read_transaction
from worker.cli.command_options import (
    after_number_option,
    format_options,
    limit_option,
    refuse_empty_range,
    since_option,
    zone_option,
)
from worker.cli.database import open_database
from worker.cli.output import print_page
from worker.core.tenant_config import Bucket, Policy, Tenant, TenantKey
from worker.tenants import config_changes

_TABLES: tuple[tuple[str, type], ...] = (
    (r"buckets\.[^.]+", Bucket),
    (r"tenants\.[^.]+", Tenant),
    (r"tenants\.[^.]+\.allow\.[^.]+", Policy),
    (r"tenants\.[^.]+\.keys\.[^.]+", TenantKey),
)
_ALWAYS_SHOWN = frozenset({"trust"})  # the only field that every tenant has, and who may act for it


def is_default(change: config_changes.ChangeRecord) -> bool:
    """Return true if the field was added or removed together with its table, at its default."""
    table, _, name = change.path.rpartition(".")
    if (change.before is None) is (change.after is None) or name in _ALWAYS_SHOWN:
        return False
    value = change.after if change.before is None else change.before
    value = tuple(value) if isinstance(value, list) else value  # as JSON has it
    classes = (class_ for pattern, class_ in _TABLES if re.fullmatch(pattern, table))
    defaults = {field.name: field.default for class_ in classes for field in fields(class_)}
    default = defaults.get(name, MISSING)
    return type(default) is type(value) and bool(default == value)


@click.command("changes")
@click.option("--all", "with_defaults", is_flag=True, help="Include fields with default values.")
@since_option
@zone_option
@limit_option
@after_number_option
@format_options
@click.pass_context
def list_changes(
    context: click.Context,
    /,
    *,
    output_format: Any,
    limit: int,
    with_defaults: bool,
    zone: object,  # noqa: ARG001 - print_page reads it from the context
    **filters: Any,
) -> None:
    """List changes of tenants, buckets, policies, keys and quotas, newest first.

    Shows the account that made each change, and the command that it used. The table leaves out
    fields that a new or removed tenant, bucket, policy or key has by default; --all, --json and
    --csv list them as well.

    \b
    Example:
      python -m worker audit changes --since 7d
    """
    refuse_empty_range(filters["since"], None)
    is_unwanted = None if with_defaults or output_format is not None else is_default
    with open_database(read_transaction) as connection:
        page = config_changes.read_changes(connection, limit, is_unwanted=is_unwanted, **filters)
    columns = config_changes.ChangeRecord._fields
    print_page(context, columns, page, attrgetter("number"), output_format)
    if page.skipped:
        click.echo(f"Default values left out: {page.skipped:,}; --all shows them.")
