"""JSON Schemas of what surrounds messages and replies in Redis: Celery's envelope and its result.

Sources: Celery, "Message Protocol", version 2; kombu's virtual transport.
"""

from typing import Any

from valetkey.wire.messages import INTERACTIVE_QUEUE, ISSUE_TASK, VERSION
from valetkey.wire.unavailable import Unavailable
from worker.core.contract.schemas import DIALECT, Schema

MAX_ID_LENGTH = 255
JWS_PATTERN = r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$"
JWE_PATTERN = r"^[A-Za-z0-9_-]+\.\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$"
_TASK_ID: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH}


def headers_schema() -> Schema:
    """Return the schema of the headers of Celery that a producer writes."""
    return {
        "type": "object",
        "description": "Celery's headers. The service ignores those that are not listed here.",
        "required": ["task", "id"],
        "properties": {
            "task": {"const": ISSUE_TASK, "description": "The name of the task."},
            "id": _TASK_ID
            | {
                "description": "The task id: printable text that the producer chooses. The result "
                "is stored under it. For a chunk, BATCH.CHUNK; for a grant again, BATCH.DIGEST; "
                "otherwise a new UUID."
            },
            "root_id": _TASK_ID | {"description": "The same as id. Celery logs it."},
            "lang": {"type": "string", "description": "The language of the producer; ignored."},
        },
    }


def envelope_schema() -> Schema:
    """Return the schema of an element of the list in Redis that is a queue."""
    properties: dict[str, Any] = {
        "body": {
            "type": "string",
            "contentEncoding": "base64",
            "contentMediaType": "application/json",
            "description": "The base64 of a JSON array: [[ARGUMENT], {}, {}]. ARGUMENT is a "
            "request as a JSON object, or as the text of a compact JWS.",
        },
        "content-type": {"const": "application/json"},
        "content-encoding": {"const": "utf-8"},
        "headers": headers_schema(),
        "properties": _properties_schema(),
    }
    return {
        "$schema": DIALECT,
        "$id": f"urn:valetkey:{VERSION}:envelope",
        "title": "Celery's envelope",
        "description": "An element of the list in Redis. Write body as the first member.",
        "type": "object",
        "required": list(properties),
        "properties": properties,
    }


def _properties_schema() -> Schema:
    return {
        "type": "object",
        "description": "The properties of kombu. The service ignores those that are not listed.",
        "required": ["body_encoding"],
        "properties": {
            "body_encoding": {"const": "base64"},
            "correlation_id": {"type": "string", "description": "The same as the header id."},
            "delivery_tag": {"type": "string", "description": "A new UUID for every message."},
            "delivery_info": {
                "type": "object",
                "properties": {
                    "exchange": {"type": "string"},
                    "routing_key": {"type": "string", "examples": [INTERACTIVE_QUEUE]},
                },
            },
            "priority": {"type": "integer", "minimum": 0, "maximum": 255},
            "reply_to": {"type": "string", "description": "Ignored."},
        },
    }


def result_schema() -> Schema:
    """Return the schema of a result, as it is stored and announced."""
    return {
        "$schema": DIALECT,
        "$id": f"urn:valetkey:{VERSION}:result",
        "title": "Celery's result",
        "description": "The value of the key celery-task-meta-TASK_ID, and of its announcement.",
        "type": "object",
        "required": ["status", "result"],
        "properties": {
            "status": {
                "type": "string",
                "examples": ["SUCCESS", "RETRY", "FAILURE"],
                "description": "SUCCESS: result is a reply. RETRY: wait, the service tries again "
                "by itself. FAILURE: there is no reply, send the message again.",
            },
            "result": {
                "description": "SUCCESS: a reply as a JSON object, or sealed, as the text of a "
                "compact JWE. RETRY and FAILURE: an exception in Celery's form; with the code "
                "`unavailable`, it says which part of the service is unavailable. It is not "
                "sealed, so it may be forged: only show it.",
                "examples": [Unavailable("database", 4, 1_764_200_000).celery_error()],
            },
            "task_id": _TASK_ID,
        },
    }
