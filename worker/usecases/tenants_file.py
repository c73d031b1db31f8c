"""tenants.toml: who may have what, as people write and review it."""

import re
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from worker.core.apply.conflicts import Conflict, find_conflicts
from worker.core.tenants.bucket_table import BucketTable
from worker.core.tenants.config import Bucket, Tenant, TenantConfig
from worker.core.tenants.fields import Table, ValidationContext, closest_name
from worker.core.tenants.key_table import KeyTable
from worker.core.tenants.locations import LineIndex, Location, format_location
from worker.core.tenants.quota_table import PLAIN_TAG, TAGS, LimitTable, QuotaTable, SizeTable
from worker.core.tenants.tenant_table import EndpointTable, PolicyTable, TenantsFile, TenantTable
from worker.net.webhook_secrets import secret_reference_error

_WORDS = {
    "extra_forbidden": "no such field",
    "missing": "this has to be written out",
    "tuple_type": "this is an array",
}

# By the path of a table; the file's author chose the names where there are stars.
_TABLES: dict[tuple[str, ...], type[Table]] = {
    (): TenantsFile,
    ("buckets", "*"): BucketTable,
    ("tenants", "*"): TenantTable,
    ("tenants", "*", "allow", "*"): PolicyTable,
    ("tenants", "*", "endpoints", "*"): EndpointTable,
    ("tenants", "*", "keys", "*"): KeyTable,
    ("tenants", "*", "quotas"): QuotaTable,
    ("tenants", "*", "quotas", "grants", "*"): LimitTable,
    ("tenants", "*", "quotas", "download_grants", "*"): LimitTable,
    ("tenants", "*", "quotas", "upload_bytes", "*"): SizeTable,
}
_NOT_WRITTEN = {"[key]", *TAGS}  # what pydantic puts into a location
_TOML_PLACE = re.compile(r" \(at line (\d+), column \d+\)$")


class FileProblem(NamedTuple):
    """One thing that is wrong in the file: where, what, and what would be right."""

    path: str
    line: int | None
    message: str
    hint: str | None


def read_tenants_file(
    file: Path, *, development: bool, endpoint: str | None = None
) -> TenantConfig | list[FileProblem]:
    """Read a file whole, or say everything that is wrong with it: nothing is taken in part.

    Development also accepts webhooks to http:// and to this machine; endpoint is that of bucket
    profiles that name none. Raises OSError.
    """
    try:
        text = file.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except ValueError as error:
        return [_not_toml(str(error))]
    around = ValidationContext(_names(raw.get("buckets")), development, secret_reference_error)
    places = LineIndex(text)
    try:
        declared, problems = TenantsFile.model_validate(raw, context=around).declared(), []
    except ValidationError as error:
        declared = _sound(raw, around)
        problems = [_problem(found, places) for found in error.errors(include_url=False)]
    problems += [_contradiction(found, places) for found in find_conflicts(declared, endpoint)]
    return sorted(problems, key=lambda problem: problem.line or 0) or declared


def _not_toml(error: str) -> FileProblem:
    place = _TOML_PLACE.search(error)
    line = int(place[1]) if place else None
    hint = "each name is declared once" if error.startswith("Cannot ") else None
    return FileProblem("", line, f"this is not TOML in UTF-8: {_TOML_PLACE.sub('', error)}", hint)


def _sound(raw: dict[str, Any], around: ValidationContext) -> TenantConfig:
    """Those bucket profiles and tenants that are right by themselves, to hold against each other.

    What contradicts them is then said together with what is wrong in the others.
    """
    buckets: dict[str, Bucket] = {}
    tenants: dict[str, Tenant] = {}
    for name in _names(raw.get("buckets")):
        with suppress(ValidationError):
            table = BucketTable.model_validate(raw["buckets"][name], context=around)
            buckets[name] = table.declared(name)
    for name in _names(raw.get("tenants")):
        with suppress(ValidationError):
            tenant = TenantTable.model_validate(raw["tenants"][name], context=around)
            tenants[name] = tenant.declared(name)
    return TenantConfig(buckets, tenants)


def _contradiction(found: Conflict, places: LineIndex) -> FileProblem:
    because_of = places.line(found.because_of) if found.because_of else None
    message = f"{found.message} (line {because_of})" if because_of else found.message
    return FileProblem(format_location(found.at), places.line(found.at), message, found.hint)


def _names(table: Any) -> tuple[str, ...]:
    return tuple(table) if isinstance(table, dict) else ()


def _problem(error: ErrorDetails, places: LineIndex) -> FileProblem:
    location = tuple(part for part in error["loc"] if part not in _NOT_WRITTEN)
    message = _WORDS.get(error["type"], error["msg"])
    return FileProblem(
        format_location(location), places.line(location), message, _hint(error, location)
    )


def _hint(error: ErrorDetails, location: Location) -> str | None:
    *tables, name = (part for part in location if isinstance(part, str))
    if PLAIN_TAG in error["loc"]:
        tables, name = [*tables, name], "limit"
    table = next((table for path, table in _TABLES.items() if _matches(path, tables)), None)
    if table is None:
        return None
    if error["type"] == "extra_forbidden":
        meant = closest_name(name, table.model_fields)
        return f"did you mean {meant}?" if meant else f"there are {', '.join(table.model_fields)}"
    found = table.model_fields.get(name)
    return found.description if found else None


def _matches(path: tuple[str, ...], tables: list[str]) -> bool:
    return len(path) == len(tables) and all(
        step in {"*", table} for step, table in zip(path, tables, strict=True)
    )
