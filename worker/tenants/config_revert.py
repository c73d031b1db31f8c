"""Undoes all that one `apply` or `quota set` changed in the config, from the log of changes."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from models import ConfigChange
from worker.rules.tenant_config import TenantConfig
from worker.tenants.apply_plan import Value, config_values
from worker.tenants.toml_fields import config_type, default_value

_is_id_path = re.compile(r"tenants\.[^.]+\.id").fullmatch
_COMMANDS = ("apply", "quota set")  # the other commands change what no tenants file contains


class NotRevertible(Exception):
    """A change cannot be undone; the message says why."""


class RevertedConfig(NamedTuple):
    """A config without some changes, and the ids of removed tenants that it has again, by name."""

    config: TenantConfig
    restored_ids: dict[str, str]


def revert_change(
    connection: Connection, config: TenantConfig, change_number: int
) -> RevertedConfig:
    """Return the config without all that was changed together with the change of this number.

    Raises NotRevertible if there is no such change, or if one of its fields was changed again.
    """
    values = config_values(config)
    for path, before, after in _changes_of_command(connection, change_number):
        if values.get(path) != _to_value(after):
            raise NotRevertible(f"{path} was changed again since. Edit the tenants file instead")
        values[path] = _to_value(before)
    values = {path: value for path, value in values.items() if value is not None}
    ids = {path.split(".")[1]: values.pop(path) for path in list(filter(_is_id_path, values))}
    reverted: TenantConfig = config_type().validate_python(_to_tables(values))
    restored = reverted.tenants.keys() - config.tenants.keys()
    return RevertedConfig(reverted, {name: str(ids.get(name, name)) for name in restored})


def _changes_of_command(connection: Connection, change_number: int) -> list[tuple[str, Any, Any]]:
    columns = ConfigChange.changed_at, ConfigChange.changed_by, ConfigChange.command
    query = select(*columns).where(ConfigChange.change_number == change_number)
    command = connection.execute(query).one_or_none()
    if command is None:
        raise NotRevertible("there is no such change. `audit changes` lists their numbers")
    if command.command not in _COMMANDS:
        raise NotRevertible(
            f"it was made by `{command.command}`. Only `apply` and `quota set` can be undone"
        )
    together = (column == value for column, value in zip(columns, command, strict=True))
    fields = select(ConfigChange.path, ConfigChange.before, ConfigChange.after)
    return [
        (row.path, row.before, row.after) for row in connection.execute(fields.where(*together))
    ]


def _to_value(value: Any) -> Any:
    """Return a value of a field as `config_values` does; JSON has no tuples."""
    return tuple(value) if isinstance(value, list) else value


def _to_tables(values: Mapping[str, Value]) -> dict[str, Any]:
    """Return the tables of a tenants file that has these values, by the paths of its fields.

    It leaves out defaults: some fields may be given only together with others.
    """
    tables: dict[str, Any] = {}
    for path, value in sorted(values.items()):
        *parents, name = path.split(".")
        table = tables
        for parent in parents:
            inner = table.setdefault(parent, {})
            if not isinstance(inner, dict):  # the limit of a quota that has a warning, too
                inner = table[parent] = {"limit": inner}
            table = inner
        if value != _to_value(default_value(path)):
            table[name] = value
    return tables
