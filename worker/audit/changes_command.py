"""Lists the audit log of administration, without changes that are only defaults of a table."""

from typing import Any

import click

from worker.shared.command_options import (
    after_number_option,
    format_options,
    limit_option,
    since_option,
    zone_option,
)
from worker.shared.output import print_list
from worker.tenants.config_changes import CHANGES
from worker.tenants.toml_fields import default_value

_ALWAYS_SHOWN = frozenset({"trust"})  # the only field that every tenant has, and who may act for it


def is_default(path: str, before: Any, after: Any) -> bool:
    """Return true if the field was added or removed together with its table, at its default."""
    if (before is None) is (after is None) or path.rpartition(".")[2] in _ALWAYS_SHOWN:
        return False
    value = after if before is None else before
    default = default_value(path)
    return type(default) is type(value) and bool(default == value)


@click.command("changes")
@click.option("--all", "with_defaults", is_flag=True, help="Include fields with default values.")
@since_option
@zone_option
@limit_option
@after_number_option
@format_options
def list_changes(*, with_defaults: bool, **options: Any) -> None:
    """List changes of tenants, buckets, policies, keys and quotas, newest first.

    Shows the account that made each change, and the command that it used. The table leaves out
    fields that a new or removed tenant, bucket, policy or key has by default; --all, --json and
    --csv list them as well.

    \b
    Example:
      python -m worker audit changes --since 7d
    """
    shows_all = with_defaults or options["output_format"] is not None
    skipped = print_list(
        CHANGES,
        options,
        is_unwanted=None if shows_all else lambda row: is_default(row.path, row.before, row.after),
    )
    if skipped:
        click.echo(f"Default values left out: {skipped:,}; --all shows them.")
