"""Tells which changes of a config are only the defaults of a table that was added or removed."""

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from worker.core.tenants.config import Bucket, Policy, Tenant, TenantKey

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
