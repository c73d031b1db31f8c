"""The fields of tenants.toml: their places in the file, their descriptions, and their errors."""

import json
import re
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import ErrorDetails

from valetkey.units import describe_amount, describe_duration, describe_size
from worker.rules.tenant_config import TenantConfig

Location = tuple[str | int, ...]


@cache
def config_type() -> TypeAdapter[TenantConfig]:
    """Return the type that validates a file. Later calls return the same object."""
    return TypeAdapter(TenantConfig)


@cache
def _config_schema() -> dict[str, Any]:
    return config_type().json_schema()


def find_fields(path: Iterable[str | int]) -> dict[str, dict[str, Any]]:
    """Return the fields of the table at a path, with their descriptions and defaults.

    They are those of its JSON Schema. The result is empty if there is no such table, or if it may
    have any names.
    """
    schema = _config_schema()
    table = schema
    for part in path:
        table = table.get("properties", {}).get(part) or table.get("additionalProperties") or {}
        if "$ref" in table:
            table = schema["$defs"][table["$ref"].rpartition("/")[2]]
    fields: dict[str, dict[str, Any]] = table.get("properties", {})
    return fields


def default_value(path: str) -> Any:
    """Return the default of the field at a dotted path as JSON; None if it has none."""
    *table, name = path.split(".")
    return find_fields(table).get(name, {}).get("default")


def describe_field(location: Location) -> str | None:
    """Return the description of a field, or of the one that has this array or plain value."""
    *table, name = (part for part in location if isinstance(part, str))
    description = find_fields(table).get(name, {}).get("description")
    return description and " ".join(description.split())


def suggest_field(location: Location) -> str:
    """Return the hint for a field that does not exist."""
    *table, name = location
    fields = find_fields(table)
    suggestion = closest_name(str(name), fields)
    return (
        f"did you mean {suggestion}?" if suggestion else f"the fields here are {', '.join(fields)}"
    )


def closest_name(name: str, known_names: Collection[str]) -> str | None:
    """Return the known name that is most similar to a misspelled one, or None."""
    return next(iter(get_close_matches(name, known_names, n=1)), None)


_is_bare_key = re.compile(r"[A-Za-z0-9_-]+").fullmatch
_match_header = re.compile(r"\s*\[([^\[\]]+)\]").match
_match_field = re.compile(r"\s*([\w.\"'-]+)\s*=").match


def format_location(location: Location) -> str:
    """Format a location as a dotted TOML key, with the indices of array items in brackets."""
    parts = (
        f"[{part}]"
        if isinstance(part, int)
        else f".{part if _is_bare_key(part) else json.dumps(part)}"
        for part in location
    )
    return "".join(parts).removeprefix(".")


class LineIndex:
    """The line numbers of tables and fields in a TOML text.

    tomllib reports no line numbers. A line-by-line scan is exact enough for error messages.
    """

    def __init__(self, text: str) -> None:
        self._lines: dict[Location, int] = {}
        table: Location = ()
        for number, line in enumerate(text.split("\n"), start=1):
            if header := _match_header(line):
                table = _split_dotted_key(header[1])
                for length in range(1, len(table) + 1):
                    self._lines.setdefault(table[:length], number)
            elif field := _match_field(line):
                self._lines.setdefault(table + _split_dotted_key(field[1]), number)

    def find_line(self, location: Location) -> int | None:
        """Return the line of a location or of its nearest parent that has one."""
        for length in range(len(location), 0, -1):
            if line := self._lines.get(location[:length]):
                return line
        return None


def _split_dotted_key(dotted_key: str) -> Location:
    return tuple(part.strip().strip("\"'") for part in dotted_key.split("."))


_DURATIONS = frozenset({"max_expires_in", "role_seconds"})
_QUOTAS_DEPTH = 2  # a quota's location begins with tenants, the tenant's name, quotas, the metric


def describe_number(location: Sequence[str | int], number: int) -> str:
    """Describe the number at a location of the file: a duration, a size or a plain number."""
    if location[_QUOTAS_DEPTH : _QUOTAS_DEPTH + 1] == ("quotas",):
        return describe_amount(str(location[_QUOTAS_DEPTH + 1]), number)
    if location[-1] in _DURATIONS:
        return describe_duration(number)
    return describe_size(number) if location[-1] == "max_size" else f"{number:,}"


_MESSAGES = {
    "bool_type": "this must be true or false, without quotes",
    "dataclass_type": "this must be a table",
    "dict_type": "this must be a table",
    "greater_than_equal": "this must be at least {ge}",
    "int_type": "this must be a whole number, without quotes",
    "less_than_equal": "this must be at most {le}",
    "literal_error": "this must be {expected}",
    "missing": "this field is required",
    "string_too_long": "this is too long: the maximum is {max_length:,} characters",
    "string_too_short": "this is too short: the minimum length is {min_length:,}",
    "string_type": 'this must be a string in quotes, like "text"',
    "tuple_type": 'this must be an array in brackets, like ["a", "b"]',
    "unexpected_keyword_argument": "no such field",
}


def error_message(error: ErrorDetails) -> str:
    """Return the message of a validation error, without the input that was refused."""
    template = _MESSAGES.get(error["type"])
    if template is None:
        return error["msg"]
    context = error.get("ctx", {})
    bounds = {
        name: describe_number(error["loc"], context[name])
        for name in ("ge", "le")
        if name in context
    }
    # pydantic quotes the permitted values in Python's way: 'virtual' or 'path'.
    return template.format_map(context | bounds).replace("'", '"')
