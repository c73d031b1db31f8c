"""tenants.toml: who may have what, as people write and review it."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from worker.adapters.secrets import reference_error
from worker.core.buckets import BucketTable
from worker.core.declaration import (
    Declaration,
    EndpointTable,
    PolicyTable,
    QuotaTable,
    TenantTable,
)
from worker.core.fields import Around, Table, nearest
from worker.core.tenancy import Declared

_BARE = re.compile(r"[A-Za-z0-9_-]+").fullmatch
_HEADER = re.compile(r"\s*\[([^\[\]]+)\]").match
_FIELD = re.compile(r"\s*([\w.\"'-]+)\s*=").match

_WORDS = {
    "extra_forbidden": "no such field",
    "missing": "this has to be written out",
    "tuple_type": "this is an array",
}

# By the path of a table without the names that the file's author chose.
_TABLES: dict[tuple[str | int, ...], type[Table]] = {
    (): Declaration,
    ("buckets",): BucketTable,
    ("tenants",): TenantTable,
    ("tenants", "allow"): PolicyTable,
    ("tenants", "quotas"): QuotaTable,
    ("tenants", "endpoints"): EndpointTable,
}

Location = tuple[str | int, ...]


class Problem(NamedTuple):
    """One thing that is wrong in the file: where, what, and what would be right."""

    path: str
    line: int | None
    message: str
    hint: str | None


def read(file: Path, *, development: bool) -> Declared | list[Problem]:
    """Read a file whole, or say everything that is wrong with it: nothing is taken in part.

    Development also accepts webhooks to http:// and to this machine. Raises OSError.
    """
    try:
        text = file.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except ValueError as error:  # a TOML error says the line itself
        return [Problem("", None, f"this is not TOML in UTF-8: {error}", None)]
    around = Around(_names(raw.get("buckets")), development, reference_error)
    try:
        return Declaration.model_validate(raw, context=around).declared()
    except ValidationError as error:
        lines = _lines(text)
        problems = [_problem(found, lines) for found in error.errors(include_url=False)]
        return sorted(problems, key=lambda problem: problem.line or 0)


def _names(table: Any) -> frozenset[str]:
    return frozenset(table) if isinstance(table, dict) else frozenset()


def _problem(error: ErrorDetails, lines: dict[Location, int]) -> Problem:
    location = tuple(part for part in error["loc"] if part != "[key]")
    message = _WORDS.get(error["type"], error["msg"])
    return Problem(_path(location), _line(location, lines), message, _hint(error, location))


def _path(location: Location) -> str:
    steps = (
        f"[{part}]" if isinstance(part, int) else f".{part if _BARE(part) else json.dumps(part)}"
        for part in location
    )
    return "".join(steps).removeprefix(".")


def _hint(error: ErrorDetails, location: Location) -> str | None:
    *tables, name = (part for part in location if isinstance(part, str))
    table = _TABLES.get(tuple(tables[::2]))
    if table is None:
        return None
    if error["type"] == "extra_forbidden":
        meant = nearest(name, table.model_fields)
        return f"did you mean {meant}?" if meant else f"there are {', '.join(table.model_fields)}"
    found = table.model_fields.get(name)
    return found.description if found else None


def _line(location: Location, lines: dict[Location, int]) -> int | None:
    ends = range(len(location), 0, -1)
    return next((lines[location[:end]] for end in ends if location[:end] in lines), None)


def _lines(text: str) -> dict[Location, int]:
    """Where each table and field stands. tomllib does not say, and a guess by line will do."""
    lines: dict[Location, int] = {}
    table: Location = ()
    for number, line in enumerate(text.split("\n"), start=1):
        if header := _HEADER(line):
            table = _keys(header[1])
            for end in range(1, len(table) + 1):
                lines.setdefault(table[:end], number)
        elif field := _FIELD(line):
            lines.setdefault(table + _keys(field[1]), number)
    return lines


def _keys(dotted: str) -> Location:
    return tuple(key.strip().strip("\"'") for key in dotted.split("."))
