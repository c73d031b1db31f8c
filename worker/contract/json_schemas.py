"""JSON Schemas of the messages, replies and webhooks, and of what surrounds them in Redis.

They are generated from the classes of the messages and their docstrings. Requests are closed: the
service refuses fields that it does not know. Replies are open: a later service may send more
fields, and more values where this one has a list.

Sources: Celery, "Message Protocol", version 2; kombu's virtual transport.
"""

import inspect
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import Enum
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Literal, get_args

from pydantic import TypeAdapter

from valetkey import wire
from valetkey.wire import INTERACTIVE_QUEUE, ISSUE_TASK, messages, replies
from valetkey.wire.events import AnyEvent
from valetkey.wire.messages import VERSION
from valetkey.wire.terms import ReplyModel
from valetkey.wire.unavailable import Unavailable

_FIELD_LINE = re.compile(r"(\w+(?:, \w+)*): (.+)")


def _read_docstring(docstring: str, field_names: Collection[str]) -> tuple[str, dict[str, str]]:
    """Return the text of a docstring, and the texts of the fields that it describes.

    A description begins on a line like `name: text` or `name, name: text`, and ends before the next
    such line or an empty line. A line with a name that is no field belongs to the text.
    """
    paragraphs = [""]
    fields: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(docstring).splitlines():
        match = _FIELD_LINE.fullmatch(line)
        if match is not None and set(match[1].split(", ")) <= set(field_names):
            names = match[1].split(", ")
            fields |= dict.fromkeys(names, match[2])
        elif not line:
            names = []
            paragraphs.append("")
        elif names:
            fields |= {name: f"{fields[name]} {line.strip()}" for name in names}
        else:
            paragraphs[-1] += f" {line.strip()}"
    return "\n\n".join(filter(None, map(str.strip, paragraphs))), fields


def _sentence(text: str) -> str:
    first_word = text.partition(" ")[0].rstrip(",;:")
    return text[0].upper() + text[1:] if first_word.isalpha() else text


Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
# JSON Schema does not have to check `format`, and its names allow more than the service accepts.
_DATE_TIME = r"^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$"
_MEMBER_ORDER = (
    *("title", "description", "type", "required", "properties", "additionalProperties"),
    "examples",
)
# Fields that mean the same in every message, where its docstring does not describe them.
_COMMON_FIELDS = {
    "v": "The version of the contract.",
    "ask": "The kind of the request. Without it, the message requests grants.",
    "kind": "The kind of the grant.",
    "status": "The kind of the reply.",
    "type": "The type of the webhook.",
    "timestamp": "The time of the event.",
    "tenant": "The tenant that the producer acts for.",
    "batch": "The batch id, a UUIDv7 in lower case.",
    "quotas": "The tenant's quotas.",
    "limits": "The limits of the service.",
}
_CLASSES = {
    name: value
    for module in iter_modules(wire.__path__, f"{wire.__name__}.")
    for name, value in vars(import_module(module.name)).items()
    if isinstance(value, type)
}


def request_classes() -> tuple[type, ...]:
    """Return the classes of the messages that producers send."""
    return get_args(messages.AnyMessage)


def reply_classes() -> tuple[type, ...]:
    """Return the classes of the replies."""
    return get_args(replies.Reply)


def request_schema() -> Schema:
    """Return the schema of all requests."""
    return _document("requests", "valetkey requests", request_classes(), request_definitions())


def event_classes() -> tuple[type[ReplyModel], ...]:
    """Return the classes of the webhooks."""
    return get_args(AnyEvent)


def reply_schema() -> Schema:
    """Return the schema of all replies."""
    return _document("replies", "valetkey replies", reply_classes(), reply_definitions())


def webhook_schema() -> Schema:
    """Return the schema of all webhooks."""
    return _document("webhooks", "valetkey webhooks", event_classes(), event_definitions())


def request_definitions() -> dict[str, Schema]:
    """Return a definition for each class in a request."""
    definitions = _definitions(messages.AnyMessage)
    for name in _tagged_definitions(definitions):
        _require(definitions[name], "kind")
    for schema in _all_schemas(definitions.values()):
        _close_schema(schema)
    return _described(definitions)


def reply_definitions() -> dict[str, Schema]:
    """Return a definition for each class in a reply."""
    return _open_definitions(replies.Reply, "status")


def _open_definitions(union: Any, tag: str) -> dict[str, Schema]:
    definitions = _definitions(union, "serialization")
    for definition in definitions.values():
        _require(definition, tag)
    # Distinguishes the classes, so it keeps its list of values.
    tags = {name: item.get("properties", {}).pop(tag, None) for name, item in definitions.items()}
    for schema in _all_schemas(definitions.values()):
        _open_schema(schema)
    for name, schema in tags.items():
        if schema is not None:
            definitions[name]["properties"] = {tag: schema, **definitions[name]["properties"]}
    return _described(definitions)


def event_definitions() -> dict[str, Schema]:
    """Return a definition for each class in a webhook."""
    return _open_definitions(AnyEvent, "type")


def _definitions(
    described: Any, mode: Literal["validation", "serialization"] = "validation"
) -> dict[str, Schema]:
    """Return pydantic's definitions of a class, or of the classes of a union."""
    adapter: TypeAdapter[Any] = TypeAdapter(described)
    schema = adapter.json_schema(mode=mode)
    definitions: dict[str, Schema] = schema.pop("$defs")
    return definitions | ({described.__name__: schema} if isinstance(described, type) else {})


def _document(
    name: str, title: str, classes: tuple[type, ...], definitions: dict[str, Schema]
) -> Schema:
    return {
        "$schema": DIALECT,
        "$id": f"urn:valetkey:{messages.VERSION}:{name}",
        "title": title,
        "anyOf": [{"$ref": f"#/$defs/{item.__name__}"} for item in classes],
        "$defs": definitions,
    }


def _tagged_definitions(definitions: Mapping[str, Schema]) -> set[str]:
    """Return the names of the definitions that a union distinguishes by a field."""
    return {
        reference.rpartition("/")[2]
        for schema in _all_schemas(definitions.values())
        for reference in schema.get("discriminator", {}).get("mapping", {}).values()
    }


def _require(definition: Schema, name: str) -> None:
    properties = definition.get("properties", {})
    if name in properties:
        properties[name].pop("default", None)
        required = definition.setdefault("required", [])
        definition["required"] = required if name in required else [*required, name]


def _all_schemas(schemas: Iterable[Any]) -> Iterator[Schema]:
    """Yield these schemas and every schema in them, the innermost first."""
    for schema in schemas:
        if isinstance(schema, dict):
            yield from _all_schemas((schema.get("items"), schema.get("additionalProperties")))
            yield from _all_schemas(schema.get("properties", {}).values())
            yield from _all_schemas((*schema.get("anyOf", ()), *schema.get("oneOf", ())))
            yield schema


def _close_schema(schema: Schema) -> None:
    """Allow nothing that the service refuses. The classes of requests forbid unknown fields."""
    schema.pop("discriminator", None)  # no keyword of JSON Schema
    if schema.get("format") == "date-time":
        schema["pattern"] = _DATE_TIME


def _open_schema(schema: Schema) -> None:
    """Allow what a later service may send.

    Known values become examples: a validator accepts others, and a generator makes a text of it.
    An absent field is left out of a reply, so null is no value.
    """
    if isinstance(schema.get("additionalProperties"), bool):
        del schema["additionalProperties"]
    if "enum" in schema:
        schema["examples"] = schema.pop("enum")
    if "anyOf" in schema:
        _merge_alternatives(schema)


def _merge_alternatives(schema: Schema) -> None:
    """Remove null, and merge known values with the text that stands for all others."""
    alternatives = [item for item in schema.pop("anyOf") if item != {"type": "null"}]
    if any(map(_has_known_values, alternatives)):
        alternatives = [item for item in alternatives if item != {"type": "string"}]
    if schema.get("default", ...) is None:
        del schema["default"]
    if len(alternatives) == 1:
        schema |= alternatives[0] | schema
    else:
        schema["anyOf"] = alternatives


def _has_known_values(schema: Schema) -> bool:
    referenced = _CLASSES.get(schema.get("$ref", "").rpartition("/")[2], object)
    return "examples" in schema or issubclass(referenced, Enum)


def _described(definitions: dict[str, Schema]) -> dict[str, Schema]:
    """Add the descriptions of fields, and remove pydantic's titles of fields."""
    for name, definition in definitions.items():
        properties = definition.get("properties", {})
        text, fields = _read_docstring(_CLASSES[name].__doc__ or "", properties)
        for base in _CLASSES[name].__mro__[1:]:  # they describe fields as well
            fields = _read_docstring(base.__doc__ or "", properties)[1] | fields
        members = definition | {"title": name, "description": text}
        definitions[name] = {key: members[key] for key in _MEMBER_ORDER if key in members}
        for field, schema in properties.items():
            schema.pop("title", None)
            if field in fields:
                schema["description"] = _sentence(fields[field])
            elif field in _COMMON_FIELDS:
                schema["description"] = _COMMON_FIELDS[field]
    return definitions


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
            "traceparent": {
                "type": "string",
                "description": "Continues a trace (W3C Trace Context, version 00). The service "
                "ignores another value.",
            },
            "sent_at": {
                "type": "integer",
                "minimum": 0,
                "description": "The time of this push, in milliseconds of Unix time. The service "
                "only measures by it how long messages wait.",
            },
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
            "request": {
                "type": ["string", "null"],
                "description": "Names the tenant, batch and chunk that the result answers. Only a "
                "result of the same request replaces it.",
            },
            "result": {
                "description": "SUCCESS: a reply as a JSON object, or sealed, as the text of a "
                "compact JWE. RETRY and FAILURE: an exception in Celery's form; with the code "
                "`unavailable`, it says which part of the service is unavailable. It is not "
                "sealed, so it may be forged: only show it.",
                "examples": [Unavailable("database", 2, 1_764_200_000).celery_error()],
            },
            "task_id": _TASK_ID,
        },
    }
