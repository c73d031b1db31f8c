"""A document for AWS, and its forms: with commands for a shell, as JSON, and as Terraform."""

import json
import re
import shlex
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_VERSION = "2012-10-17"  # of IAM's policy language
_WIDTH = 96


class Resource(NamedTuple):
    """A resource of Terraform's provider for AWS.

    content: the argument whose value is the document, as JSON; None if the document's own fields
    are the arguments.
    """

    type: str
    arguments: Mapping[str, str]
    content: str | None


class Document(NamedTuple):
    """A document for AWS.

    name: that of its file. title: what it is for, and where it belongs. reasons: why it has each
    of its statements or rules, by Sid or ID. command: that of AWS' command line, with {file}.
    """

    name: str
    title: str
    content: Mapping[str, Any]
    reasons: Mapping[str, str]
    command: str
    resource: Resource


def policy(statements: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a policy with these statements."""
    return {"Version": _VERSION, "Statement": list(statements)}


def format_shell(documents: Sequence[Document], notes: Iterable[str]) -> str:
    """Return commands for a shell that write and use each document, with the reasons."""
    parts = []
    for document in documents:
        file = f"{document.name}.json"
        reasons = [f"{sid}: {reason}" for sid, reason in document.reasons.items()]
        parts += [_comment([document.title, *reasons])]
        parts += [f"cat > {file} <<'END'\n{json.dumps(document.content, indent=2)}\nEND"]
        parts += [document.command.replace("{file}", f"file://{file}"), ""]
    return "\n".join([*parts, _comment(notes)]).strip() + "\n"


def format_json(documents: Sequence[Document]) -> str:
    """Return one JSON object with the documents by name."""
    return json.dumps({document.name: document.content for document in documents})


def format_terraform(documents: Sequence[Document], notes: Iterable[str]) -> str:
    """Return the resources of Terraform's provider for AWS, with the reasons as comments."""
    blocks = [_comment([document.title]) + "\n" + _resource(document) for document in documents]
    return "\n\n".join([*blocks, _comment(notes)]).strip() + "\n"


def _comment(lines: Iterable[str], indent: str = "") -> str:
    """Return lines as comments, folded to the width of a page."""
    return "\n".join(
        textwrap.fill(line, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}#   ")
        for line in lines
    )


def _resource(document: Document) -> str:
    kind, arguments, content = document.resource
    lines = [f"  {name} = {_quote(value)}" for name, value in arguments.items()]
    if content is None:
        for name, value in document.content.items():
            lines += _blocks(_snake(name).removesuffix("s"), value, "  ", document.reasons)
    else:
        value = _expression(document.content, "  ", document.reasons)
        lines.append(f"  {content} = jsonencode({value})")
    name = re.sub(r"[^A-Za-z0-9_]", "_", document.name)
    return "\n".join([f'resource "{kind}" "{name}" {{', *lines, "}"])


def _expression(value: Any, indent: str, reasons: Mapping[str, str]) -> str:
    """Return a value of JSON as an expression of Terraform."""
    if isinstance(value, str):
        return _quote(value)
    if not isinstance(value, dict | list):
        return json.dumps(value)
    inner = f"{indent}  "
    if isinstance(value, list):
        items = [f"{inner}{_expression(item, inner, reasons)}," for item in value]
        return "\n".join(["[", *items, f"{indent}]"])
    lines = [_comment([reasons[value[name]]], inner) for name in ("Sid", "ID") if name in value]
    lines += [f"{inner}{_quote(k)} = {_expression(v, inner, reasons)}" for k, v in value.items()]
    return "\n".join(["{", *lines, f"{indent}}}"])


def _blocks(name: str, value: Any, indent: str, reasons: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of a field of the document as an argument, or as blocks of arguments."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        for item in value:
            yield from _blocks(name, item, indent, reasons)
    elif isinstance(value, dict):
        yield f"{indent}{name} {{"
        yield from (
            _comment([reasons[value[key]]], f"{indent}  ") for key in ("ID",) if key in value
        )
        for key, field in value.items():
            yield from _blocks(_snake(key), field, f"{indent}  ", reasons)
        yield f"{indent}}}"
    else:
        yield f"{indent}{name} = {_expression(value, indent, reasons)}"


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _quote(text: str) -> str:
    """Quote a text; $ and % before a brace begin a template."""
    return re.sub(r"([$%])(?=\{)", r"\1\1", json.dumps(text, ensure_ascii=False))


def quote_words(*words: str) -> str:
    """Return words of a command, quoted for a shell."""
    return " ".join(shlex.quote(word) for word in words)
