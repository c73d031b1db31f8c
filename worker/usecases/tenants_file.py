"""Reads and checks tenants.toml."""

import re
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from worker.core.apply.conflicts import Conflict, find_conflicts
from worker.core.quotas.cost import METRICS
from worker.core.tenants.bucket_table import BucketTable
from worker.core.tenants.config import Bucket, Tenant, TenantConfig
from worker.core.tenants.endpoints import NO_ENDPOINTS, DefaultEndpoints
from worker.core.tenants.error_messages import error_message
from worker.core.tenants.fields import Table, ValidationContext, closest_name
from worker.core.tenants.key_table import KeyTable
from worker.core.tenants.locations import LineIndex, Location, format_location
from worker.core.tenants.quota_table import (
    PLAIN_TAG,
    TAGS,
    QuotaTable,
    limit_table_class,
)
from worker.core.tenants.tenant_table import (
    PolicyTable,
    TenantsFile,
    TenantTable,
    WebhookEndpointTable,
)
from worker.net.webhook_secrets import secret_reference_error

# By the path of a table. A star stands for any name.
_TABLES: dict[tuple[str, ...], type[Table]] = {
    (): TenantsFile,
    ("buckets", "*"): BucketTable,
    ("tenants", "*"): TenantTable,
    ("tenants", "*", "allow", "*"): PolicyTable,
    ("tenants", "*", "endpoints", "*"): WebhookEndpointTable,
    ("tenants", "*", "keys", "*"): KeyTable,
    ("tenants", "*", "quotas"): QuotaTable,
    **{("tenants", "*", "quotas", metric, "*"): limit_table_class(metric) for metric in METRICS},
}
_PYDANTIC_PARTS = {"[key]", *TAGS}  # parts of pydantic's locations that are not in the file
_TOML_POSITION = re.compile(r" \(at line (\d+), column \d+\)$")


class FileProblem(NamedTuple):
    """An error in the file: its location and line, the cause, and the correction."""

    path: str
    line: int | None
    message: str
    hint: str | None


def read_tenants_file(
    file: Path, *, development: bool, endpoints: DefaultEndpoints = NO_ENDPOINTS
) -> TenantConfig | list[FileProblem]:
    """Read a file and return its config, or all problems with it.

    With development, webhooks may go to http:// URLs and to this machine. endpoints are those
    of bucket profiles that name none. Raises OSError.
    """
    try:
        text = file.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except ValueError as error:
        return [_toml_problem(str(error))]
    context = ValidationContext(
        _table_names(tables.get("buckets")), development, secret_reference_error
    )
    lines = LineIndex(text)
    problems: list[FileProblem] = []
    try:
        config = TenantsFile.model_validate(tables, context=context).to_config()
    except ValidationError as error:
        config = _valid_config(tables, context)
        problems += [_field_problem(e, lines) for e in error.errors(include_url=False)]
    problems += [_conflict_problem(c, lines) for c in find_conflicts(config, endpoints)]
    return sorted(problems, key=lambda problem: problem.line or 0) or config


def _toml_problem(error: str) -> FileProblem:
    position = _TOML_POSITION.search(error)
    line = int(position[1]) if position else None
    hint = "define each table and field once" if error.startswith("Cannot ") else None
    message = f"this is not valid TOML in UTF-8: {_TOML_POSITION.sub('', error)}"
    return FileProblem("", line, message, hint)


def _valid_config(tables: dict[str, Any], context: ValidationContext) -> TenantConfig:
    """Return the bucket profiles and tenants that are valid on their own.

    Their conflicts are then reported together with the errors of the invalid ones.
    """
    buckets: dict[str, Bucket] = {}
    tenants: dict[str, Tenant] = {}
    for name in _table_names(tables.get("buckets")):
        with suppress(ValidationError):
            bucket = BucketTable.model_validate(tables["buckets"][name], context=context)
            buckets[name] = bucket.to_config(name)
    for name in _table_names(tables.get("tenants")):
        with suppress(ValidationError):
            tenant = TenantTable.model_validate(tables["tenants"][name], context=context)
            tenants[name] = tenant.to_config(name)
    return TenantConfig(buckets, tenants)


def _table_names(table: Any) -> tuple[str, ...]:
    return tuple(table) if isinstance(table, dict) else ()


def _conflict_problem(conflict: Conflict, lines: LineIndex) -> FileProblem:
    line, message = lines.find_line(conflict.location), conflict.message
    other_line = lines.find_line(conflict.other_location) if conflict.other_location else None
    if other_line:
        message += f" (line {other_line})"
    return FileProblem(format_location(conflict.location), line, message, conflict.hint)


def _field_problem(error: ErrorDetails, lines: LineIndex) -> FileProblem:
    location = tuple(part for part in error["loc"] if part not in _PYDANTIC_PARTS)
    return FileProblem(
        format_location(location),
        lines.find_line(location),
        error_message(error),
        _hint(error, location),
    )


def _hint(error: ErrorDetails, location: Location) -> str | None:
    *tables, name = (part for part in location if isinstance(part, str))
    if PLAIN_TAG in error["loc"]:
        tables, name = [*tables, name], "limit"
    table = _find_table(tables)
    if table is None:
        return None
    if error["type"] == "extra_forbidden":
        suggestion = closest_name(name, table.model_fields)
        if suggestion:
            return f"did you mean {suggestion}?"
        return f"the fields here are {', '.join(table.model_fields)}"
    field = table.model_fields.get(name)
    return field.description if field else None


def _find_table(path: list[str]) -> type[Table] | None:
    for pattern, table in _TABLES.items():
        if len(pattern) == len(path) and all(
            step in {"*", name} for step, name in zip(pattern, path, strict=True)
        ):
            return table
    return None
