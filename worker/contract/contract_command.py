"""Prints the contract with producers: JSON Schemas, an AsyncAPI 3.0 document and refusal codes.

AsyncAPI is written from the point of view of the service, which receives requests. Its schemas use
only what JSON Schema 2020-12 and draft 07 have in common, because its tools read the latter.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click

from valetkey.crypto.codec import PLAIN_CODES
from valetkey.wire import BULK_QUEUE, INTERACTIVE_QUEUE
from valetkey.wire.messages import MAX_INTERACTIVE_ITEMS, VERSION
from valetkey.wire.refusals import Code
from valetkey.wire.replies import Outcome
from valetkey.wire.terms import ReplyModel
from worker.contract.json_schemas import (
    JWE_PATTERN,
    JWS_PATTERN,
    Schema,
    envelope_schema,
    event_classes,
    event_definitions,
    headers_schema,
    reply_classes,
    reply_definitions,
    reply_schema,
    request_classes,
    request_definitions,
    request_schema,
    result_schema,
    webhook_schema,
)

_CODE_LINE = re.compile(r'[A-Z0-9_]+ = "([a-z0-9_]+)"(?:  # (.+))?')
# An exemption from a lint rule comes before the meaning, separated by a semicolon.
_EXEMPTION = re.compile(r"noqa: [^;]*; ")
_INTRODUCTION = """\
# Refusal codes

The `code` of a refusal, by topic. Programs decide by the code; the `message` is for people, and its
wording may change. A code is never renamed or reused. A later service may send codes that are not
in this table: treat an unknown code as a refusal whose reason you cannot handle.

Replies with a code marked *plain* are not sealed, because the service has not authenticated the
sender.

This page is generated from the messages: `make contract` writes it."""


class CodeMeaning(NamedTuple):
    """A code of a refusal, its meaning, and the topic that it belongs to."""

    code: str
    meaning: str
    topic: str


def read_codes() -> list[CodeMeaning]:
    """Return all codes in the order of their definition; a code without a comment has no meaning.

    A comment on its own line above some codes is their topic.
    """
    codes: list[CodeMeaning] = []
    topic = ""
    for line in inspect.getsource(Code).splitlines():
        text = line.strip()
        if text.startswith("# "):
            topic = text.removeprefix("# ").partition(". ")[0].rstrip(".")
        elif match := _CODE_LINE.fullmatch(text):
            meaning = _EXEMPTION.sub("", match[2] or "")
            codes.append(CodeMeaning(match[1], meaning, topic))
    return codes


def codes_page() -> str:
    """Return a page in Markdown with a table of all codes."""
    lines = [_INTRODUCTION]
    topic = None
    for code in read_codes():
        if code.topic != topic:
            topic = code.topic
            lines += ["", f"## {topic}", "", "| code | meaning |", "| --- | --- |"]
        plain = " *(plain)*" if code.code in PLAIN_CODES else ""
        lines.append(f"| `{code.code}`{plain} | {code.meaning} |")
    return "\n".join(lines) + "\n"


_SCHEMAS = "#/components/schemas/"
_QUEUES = {
    INTERACTIVE_QUEUE: f"Batches of up to {MAX_INTERACTIVE_ITEMS} items, and all other requests.",
    BULK_QUEUE: f"Chunks of batches of more than {MAX_INTERACTIVE_ITEMS} items.",
}
_QUEUE_TEXT = (
    "A list in Redis. Producers push Celery's envelope to its left end; envelope.schema.json and "
    "docs/contract.md describe it. The headers here are Celery's headers, the payload is the only "
    "argument of the task."
)
_SIGNED_TEXT = (
    "A request as a compact JWS (Ed25519). Its payload is one of the other messages of the "
    "channel, with the member iat: the time of signing in whole seconds."
)
_SEALED_TEXT = (
    "The reply to a signed request, as a compact JWE (ECDH-ES on X25519, A256GCM). It contains one "
    "of the other messages of the channel, gzipped if the header cty is gzip."
)


def asyncapi_document() -> dict[str, Any]:
    """Return the document as JSON values."""
    schemas = request_definitions() | reply_definitions() | event_definitions()
    text = json.dumps(schemas).replace("#/$defs/", _SCHEMAS)
    return {
        "asyncapi": "3.0.0",
        "id": f"urn:valetkey:{VERSION}",
        "info": {
            "title": "valetkey",
            "version": str(VERSION),
            "description": "Issues temporary S3 permissions from a queue. docs/contract.md has "
            "what this document cannot express.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": _servers(),
        "channels": _channels(),
        "operations": _operations(),
        "components": {"messages": _messages(), "schemas": json.loads(text)},
    }


def _servers() -> dict[str, Any]:
    return {
        name: {
            "host": "redis.example.com:6380",
            "pathname": f"/{number}",
            "protocol": "rediss",
            "description": f"The database {number} of a Redis or Valkey server: {text}.",
        }
        for number, (name, text) in enumerate({"broker": "queues", "store": "results"}.items())
    }


def _channels() -> dict[str, Any]:
    requests = [item.__name__ for item in request_classes()]
    replies = [item.__name__ for item in reply_classes()]
    channels: dict[str, Any] = {
        queue: {
            "address": queue,
            "title": f"The queue {queue}",
            "description": f"{text} {_QUEUE_TEXT}",
            "servers": [{"$ref": "#/servers/broker"}],
            "messages": _references([*requests, "SignedRequest"]),
        }
        for queue, text in _QUEUES.items()
    }
    channels["results"] = {
        "address": "celery-task-meta-{taskId}",
        "title": "The result of a task",
        "description": "A key in Redis, and the channel on which its value is announced. The "
        "payload is the member result of Celery's result, which result.schema.json describes.",
        "servers": [{"$ref": "#/servers/store"}],
        "parameters": {
            "taskId": {
                "description": "The task id of the request.",
                "location": "$message.header#/id",
            }
        },
        "messages": _references([*replies, "SealedReply"]),
    }
    channels["webhooks"] = {
        "address": None,
        "title": "A webhook endpoint of the tenant",
        "description": "The URL that the operator configured under the name of the endpoint.",
        "messages": _references([item.__name__ for item in event_classes()]),
    }
    return channels


def _references(names: list[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}


def _operations() -> dict[str, Any]:
    operations: dict[str, Any] = {}
    for queue in _QUEUES:
        suffix = "FromBulk" if queue == BULK_QUEUE else ""
        for item in request_classes():
            operations[f"receive{item.__name__}{suffix}"] = _receive(queue, item)
    for item in event_classes():
        operations[f"send{item.__name__}"] = _send(item)
    return operations


def _send(event: type[ReplyModel]) -> dict[str, Any]:
    return {
        "action": "send",
        "title": f"Send the webhook {event.model_fields['type'].default}",
        "channel": {"$ref": "#/channels/webhooks"},
        "messages": [{"$ref": f"#/channels/webhooks/messages/{event.__name__}"}],
        "bindings": {"http": {"method": "POST", "bindingVersion": "0.3.0"}},
    }


def _receive(queue: str, request: type) -> dict[str, Any]:
    replies = [*_reply_names(request), "SealedReply"]
    return {
        "action": "receive",
        "title": f"Receive a {request.__name__} from the queue {queue}",
        "channel": {"$ref": f"#/channels/{queue}"},
        "messages": [
            {"$ref": f"#/channels/{queue}/messages/{name}"}
            for name in (request.__name__, "SignedRequest")
        ],
        "reply": {
            "channel": {"$ref": "#/channels/results"},
            "messages": [{"$ref": f"#/channels/results/messages/{name}"} for name in replies],
        },
    }


def _reply_names(request: type) -> list[str]:
    """Return the replies that a request's docstring names, and the Outcome that refuses it."""
    words = set(re.findall(r"\w+", request.__doc__ or "")) | {Outcome.__name__}
    return [item.__name__ for item in reply_classes() if item.__name__ in words]


def _messages() -> dict[str, Any]:
    messages: dict[str, Any] = {item.__name__: _message(item) for item in request_classes()}
    messages["SignedRequest"] = _token("SignedRequest", _SIGNED_TEXT, JWS_PATTERN)
    for message in messages.values():
        message["headers"] = headers_schema()
    messages |= {item.__name__: _message(item) for item in reply_classes()}
    messages["SealedReply"] = _token("SealedReply", _SEALED_TEXT, JWE_PATTERN)
    for item in event_classes():
        messages[item.__name__] = _message(item) | {"headers": _webhook_headers()}
    return messages


def _message(item: type) -> dict[str, Any]:
    name = item.__name__
    payload = {"$ref": f"{_SCHEMAS}{item.__name__}"}
    return {"name": name, "title": name, "contentType": "application/json", "payload": payload}


def _token(name: str, text: str, pattern: str) -> dict[str, Any]:
    return {
        "name": name,
        "title": name,
        "summary": text,
        "contentType": "application/jose",
        "payload": {"type": "string", "pattern": pattern},
    }


def _webhook_headers() -> Schema:
    texts = {
        "webhook-id": "The same for every attempt. Ignore an id that you know.",
        "webhook-timestamp": "The time of this attempt, as Unix time in seconds.",
        "webhook-signature": "Signatures by Standard Webhooks 1.0.0, separated by spaces.",
        "content-type": "application/json",
    }
    properties = {name: {"type": "string", "description": text} for name, text in texts.items()}
    return {"type": "object", "required": list(properties), "properties": properties}


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
"""Functions that generate the text of each file, by file name: the same code, the same texts."""


_FILE_BY_FORMAT = {name.partition(".")[0]: name for name in FILES}


@click.command()
@click.argument(
    "document", type=click.Choice(sorted(_FILE_BY_FORMAT)), required=False, metavar="[DOCUMENT]"
)
@click.option(
    "--out",
    "folder",
    type=click.Path(file_okay=False),
    help="Write all documents to this folder instead, each to its own file.",
)
def contract(document: str | None, folder: str | None) -> None:
    """Print one DOCUMENT of the contract between producers and the service.

    \b
    asyncapi   AsyncAPI 3.0: queues, results and webhooks, with all messages
    requests   JSON Schema 2020-12 of the requests, without any further fields
    replies    JSON Schema of the replies and webhooks, which may get further fields
    envelope   JSON Schema of what a producer pushes to a queue in Redis
    result     JSON Schema of what the service stores for a request in Redis
    codes      the codes of refusals and their meanings, in Markdown

    All of it is generated from the code of this release, and reads no setting. docs/contract.md
    explains it and has a producer in one page. In a signed request, the schema of the requests
    applies to the content without its member iat.

    \b
    Examples:
      python -m worker contract requests > requests.schema.json
      python -m worker contract --out docs/contract
    """
    if (document is None) == (folder is None):
        raise click.UsageError("name one document, or give --out to write all of them.")
    if folder == "":  # as from an unset variable; Path would take it for the current folder
        raise click.BadParameter("the folder has no name", param_hint="--out")
    if document is not None:
        click.echo(FILES[_FILE_BY_FORMAT[document]](), nl=False)
    if folder is not None:
        _write_files(Path(folder))


def _write_files(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, generate in FILES.items():
            path = folder / name
            path.write_text(generate(), encoding="utf-8", newline="\n")
            click.echo(path)
    except OSError as error:
        path = error.filename or folder
        raise click.ClickException(f"{path} cannot be written: {error.strerror}.") from None
