"""Writes docs/tenants.md, the reference of tenants.toml, from the fields of the tenant config."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worker.tenants.toml_fields import config_type

PAGE = Path(__file__).parents[1] / "docs" / "tenants.md"
_HEAD = """\
# The fields of tenants.toml

`make contract` writes this page from `worker/core/tenant_config.py`.
[`examples/tenants.toml`](../examples/tenants.toml) is a commented example. A dash stands for a
field that is unset by default.
"""
_TABLES = ("Bucket", "Tenant", "TenantKey", "Policy", "QuotaLimits", "WebhookEndpoint")


def render_page() -> str:
    """Return the page, with a table for each kind of table in the file."""
    definitions = config_type().json_schema()["$defs"]
    return "\n".join([_HEAD, *(line for name in _TABLES for line in _table(definitions[name]))])


def _table(definition: dict[str, Any]) -> Iterator[str]:
    title, _, text = definition["description"].partition("\n\n")[0].partition(": ")
    yield f"## `{title}`\n\n{text[0].upper()}{text[1:]}\n"
    yield "| field | default | value |\n| --- | --- | --- |"
    for name, field in definition["properties"].items():
        if "description" in field:
            is_required = name in definition.get("required", ())
            default = "required" if is_required else _default(field.get("default"))
            yield f"| `{name}` | {default} | {' '.join(field['description'].split())} |"
    yield ""


def _default(value: Any) -> str:
    return f"`{json.dumps(value)}`" if value or value is False else "—"


if __name__ == "__main__":
    PAGE.write_text(render_page(), encoding="utf-8")
