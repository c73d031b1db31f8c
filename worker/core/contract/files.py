"""The files of the contract, by name: what `docs/contract` contains."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from worker.core.contract.asyncapi import asyncapi_document
from worker.core.contract.celery_schemas import envelope_schema, result_schema
from worker.core.contract.codes import codes_page
from worker.core.contract.schemas import reply_schema, request_schema, webhook_schema


def _json(generate: Callable[[], dict[str, Any]]) -> Callable[[], str]:
    return lambda: json.dumps(generate(), indent=2) + "\n"


FILES: Mapping[str, Callable[[], str]] = {
    "requests.schema.json": _json(request_schema),
    "replies.schema.json": _json(reply_schema),
    "webhooks.schema.json": _json(webhook_schema),
    "envelope.schema.json": _json(envelope_schema),
    "result.schema.json": _json(result_schema),
    "asyncapi.json": _json(asyncapi_document),
    "codes.md": codes_page,
}
"""Functions that generate the text of each file, by file name."""


def contract_files() -> dict[str, str]:
    """Generate all files; return their texts by file name. The same code gives the same texts."""
    return {name: generate() for name, generate in FILES.items()}
