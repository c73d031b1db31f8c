"""Reads and checks tenants.toml."""

import re
import tomllib
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from valetkey.crypto.keys import build_public_key
from worker.features import FEATURES, load_each
from worker.rules.tenant_config import NO_ENDPOINTS, DefaultEndpoints, Tenant, TenantConfig
from worker.tenants.config_conflicts import Conflict, find_conflicts
from worker.tenants.toml_fields import (
    LineIndex,
    Location,
    closest_name,
    config_type,
    describe_field,
    error_message,
    format_location,
    suggest_field,
)

_FEATURE_FIELDS = {
    "buckets.events_queue": "uses",
    "buckets.probe_rate": "uses",
    "tenants.allow.callbacks": "webhooks",
    "tenants.endpoints": "webhooks",
    "tenants.refund_unused": "uses",
}
"""The fields that a feature carries out, which a service may lack."""

_PYDANTIC_PART = "[key]"  # of pydantic's locations, and not in the file
_TOML_POSITION = re.compile(r" \(at line (\d+), column \d+\)$")


class FileProblem(NamedTuple):
    """An error in the file: its location and line, the cause, and the correction."""

    path: str
    line: int | None
    message: str
    hint: str | None


def read_tenants_file(
    file: Path, endpoints: DefaultEndpoints = NO_ENDPOINTS
) -> TenantConfig | list[FileProblem]:
    """Read a file and return its config, or all problems with it.

    endpoints are those of bucket profiles that name none. Raises OSError.
    """
    try:
        text = file.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        return [_toml_problem(str(error))]
    lines = LineIndex(text)
    problems: list[FileProblem] = []
    try:
        config = config_type().validate_python(tables)
    except ValidationError as error:
        config = _valid_config(tables)
        problems += [_field_problem(e, tables, lines) for e in error.errors(include_url=False)]
    conflicts, bucket_names = find_conflicts(config, endpoints), _table_names(tables, "buckets")
    for tenant in config.tenants.values():
        conflicts += _tenant_conflicts(tenant, bucket_names)
    conflicts += _missing_features(tables)
    problems += [_conflict_problem(conflict, lines) for conflict in conflicts]
    return sorted(problems, key=lambda problem: problem.line or 0) or config


def _toml_problem(error: str) -> FileProblem:
    position = _TOML_POSITION.search(error)
    line = int(position[1]) if position else None
    hint = "define each table and field once" if error.startswith("Cannot ") else None
    message = f"this is not valid TOML in UTF-8: {_TOML_POSITION.sub('', error)}"
    return FileProblem("", line, message, hint)


def _valid_config(tables: dict[str, Any]) -> TenantConfig:
    """Return the bucket profiles and tenants that are valid on their own.

    Their conflicts are then reported together with the errors of the invalid ones.
    """
    valid = TenantConfig({}, {})
    for kind in ("buckets", "tenants"):
        for name in _table_names(tables, kind):
            with suppress(ValidationError):
                config = config_type().validate_python({kind: {name: tables[kind][name]}})
                valid = TenantConfig(
                    {**valid.buckets, **config.buckets}, {**valid.tenants, **config.tenants}
                )
    return valid


def _table_names(tables: dict[str, Any], kind: str) -> Collection[str]:
    return _table(tables, kind).keys()


def _missing_features(tables: dict[str, Any]) -> Iterator[Conflict]:
    """Find the fields whose feature is not in the list of features."""
    carried_out = {field for feature in FEATURES for field in feature.tenant_fields}
    for field in _FEATURE_FIELDS.keys() - carried_out:
        *parents, name = field.split(".")
        found: list[tuple[Location, Any]] = [((), tables)]
        for parent in parents:
            found = [
                ((*location, parent, key), value)
                for location, table in found
                for key, value in _table(table, parent).items()
            ]
        for location, table in found:
            if isinstance(table, dict) and name in table:
                message = f"this service lacks the feature {_FEATURE_FIELDS[field]}"
                hint = f"remove {name}, or add {_FEATURE_FIELDS[field]} to worker/features.py"
                yield Conflict((*location, name), f"{name} has no effect: {message}", hint)


def _table(tables: Any, name: str) -> dict[str, Any]:
    table = tables.get(name) if isinstance(tables, dict) else None
    return table if isinstance(table, dict) else {}


def _tenant_conflicts(tenant: Tenant, bucket_names: Collection[str]) -> Iterator[Conflict]:
    """Find what a valid tenant names and what does not exist, or cannot be used."""
    for bucket in tenant.policies:
        if bucket in bucket_names:
            continue
        suggestion = closest_name(bucket, bucket_names)
        question = (
            f"; did you mean {suggestion}?" if suggestion else ": add its [buckets.NAME] table"
        )
        message = f"the file has no bucket profile of this name{question}"
        yield Conflict(("tenants", tenant.name, "allow", bucket), message)
    for find in load_each("tenant_rules"):
        yield from find(tenant)
    for key in tenant.keys.values():
        location = ("tenants", tenant.name, "keys", key.name)
        try:
            build_public_key(key.sign, key.seal)
        except ValueError:
            message = "sign and seal are not valid public keys: copy the line of `valetkey keygen`"
            yield Conflict(location, message)


def _conflict_problem(conflict: Conflict, lines: LineIndex) -> FileProblem:
    line, message = lines.find_line(conflict.location), conflict.message
    other_line = lines.find_line(conflict.other_location) if conflict.other_location else None
    if other_line:
        message += f" (line {other_line})"
    hint = conflict.hint or describe_field(conflict.location)
    return FileProblem(format_location(conflict.location), line, message, hint)


def _field_problem(error: ErrorDetails, tables: dict[str, Any], lines: LineIndex) -> FileProblem:
    location = tuple(part for part in error["loc"] if part != _PYDANTIC_PART)
    is_unknown = error["type"] == "unexpected_keyword_argument"
    hint = suggest_field(location) if is_unknown else describe_field(location)
    if _is_plain_limit(location, tables):
        location = location[:-1]
    path, line = format_location(location), lines.find_line(location)
    return FileProblem(path, line, error_message(error), hint)


def _is_plain_limit(location: Location, tables: Any) -> bool:
    """Return true for the limit of a quota that the file writes without a table."""
    if location[2:3] != ("quotas",) or location[-1] != "limit":
        return False
    for part in location[:-1]:
        tables = tables[part]
    return not isinstance(tables, dict)
