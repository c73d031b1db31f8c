"""Replays the log of changes: the tenant config that was in force after any of them."""

from bisect import bisect_right
from collections import defaultdict
from datetime import datetime
from typing import Any

Row = dict[str, Any]
Rows = dict[str, dict[tuple[str, ...], Row]]
"""The rows of the config's tables by their primary key, without columns that are NULL."""

_TABLES = {"allow": "policies", "endpoints": "endpoints", "keys": "tenant_keys"}
_KEYS = {"policies": "bucket", "endpoints": "name", "tenant_keys": "name"}
_Place = tuple[str, Row, str]


class ConfigLog:
    """The values of all fields of the config, after each change.

    Paths and values are those of `audit changes`. Add changes in the order of their numbers. A
    command makes several; after the last one of them, the config is that of the command. overrides
    are the rows of `quota_overrides` that the log gives now.
    """

    def __init__(self) -> None:
        self._fields: defaultdict[str, tuple[list[int], list[Any]]] = defaultdict(lambda: ([], []))
        self._numbers: list[int] = []
        self._times: list[datetime] = []
        self._places: dict[str, _Place] = {}
        self.overrides: list[Row] = []

    def add(self, number: int, changed_at: datetime, path: str, after: Any) -> None:
        """Add a change. after is None if it removed the field.

        Raises ValueError or LookupError for a change that the service does not write.
        """
        *parts, name = path.split(".")
        if name == "raise":
            self._add_override(number, changed_at, parts, after)
        elif name != "sessions_from":
            if path not in self._places:
                self._places[path] = _place(path)
            numbers, values = self._fields[path]
            numbers.append(number)
            values.append(_stored_value(name, after))
        self._numbers.append(number)
        self._times.append(changed_at)

    def _add_override(
        self, number: int, changed_at: datetime, parts: list[str], after: Any
    ) -> None:
        _, name, _, metric, window = parts
        row = {"tenant": self.value(f"tenants.{name}.id", number) or name}
        row |= {"metric": metric, "window": window, "extra": after["by"]}
        row["expires_at"] = datetime.fromisoformat(after["until"])
        # A new override deletes those that have expired.
        kept = [each for each in self.overrides if each["expires_at"] > changed_at]
        self.overrides = [*kept, row]

    @property
    def last_number(self) -> int:
        """The number of the newest change, 0 if there is none."""
        return self._numbers[-1] if self._numbers else 0

    def value(self, path: str, number: int) -> Any:
        """Return the value of a field after a change, None if the config had no such field."""
        numbers, values = self._fields.get(path, ((), ()))
        index = bisect_right(numbers, number)
        return values[index - 1] if index else None

    def next_time(self, number: int) -> datetime | None:
        """Return when the config changed after a change, None if that is the last one."""
        index = bisect_right(self._numbers, number)
        return self._times[index] if index < len(self._times) else None

    def rows(self, number: int) -> Rows:
        """Return the rows of the config after a change, with the values that the tables have."""
        rows: Rows = {}
        for path, (table, key, column) in self._places.items():
            value = self.value(path, number)
            if value is not None:
                row = rows.setdefault(table, {}).setdefault(tuple(key.values()), {**key})
                row[column] = value
        for row in rows.get("tenants", {}).values():
            row.setdefault("id", row["name"])
        return rows


def _place(path: str) -> _Place:
    """Return the table, the primary key and the column of the field at a path."""
    match path.split("."):
        case ["tenants", tenant, "quotas", metric, window, *rest]:
            key = {"tenant": tenant, "metric": metric, "window": window}
            return "quotas", key, "warn_at" if rest else "limit"
        case ["tenants", tenant, kind, name, column]:
            table = _TABLES[kind]
            return table, {"tenant": tenant, _KEYS[table]: name}, column
        case [table, name, column]:
            return table, {"name": name}, column
    raise ValueError(f"{path} is no field of the config")


def _stored_value(column: str, value: Any) -> Any:
    if column == "expires" and value is not None:
        return datetime.fromisoformat(value)
    if isinstance(value, list):
        # Only a prefix can be empty; the log writes it as "*", the whole bucket.
        return tuple("" if column == "prefixes" and item == "*" else item for item in value)
    return value
