"""Lists the audit log of administration, without changes that are only defaults of a table."""

import re
from collections.abc import Mapping
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


def is_default(path: str, before: Any, after: Any) -> bool:
    """Return true if the field was added or removed together with its table, at its default.

    The values are as in a FieldChange, or as JSON has them.
    """
    table, _, name = path.rpartition(".")
    if (before is None) is (after is None) or name in _ALWAYS_SHOWN:
        return False
    value = after if before is None else before
    for pattern, class_ in _TABLES:
        if re.fullmatch(pattern, table):
            defaults = _defaults(class_)
            return name in defaults and _is_equal(defaults[name], value)
    return False


def _defaults(class_: type) -> Mapping[str, Any]:
    return {field.name: field.default for field in fields(class_) if field.default is not MISSING}


def _is_equal(default: Any, value: Any) -> bool:
    value = tuple(value) if isinstance(value, list) else value
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
    is_unwanted = None if with_defaults or output_format is not None else _is_default
    with open_database(read_transaction) as connection:
        page = config_changes.read_changes(connection, limit, is_unwanted=is_unwanted, **filters)
    columns = config_changes.ChangeRecord._fields
    print_page(context, columns, page, attrgetter("number"), output_format)
    if page.skipped:
        click.echo(f"Default values left out: {page.skipped:,}; --all shows them.")


def _is_default(change: config_changes.ChangeRecord) -> bool:
    return is_default(change.path, change.before, change.after)
