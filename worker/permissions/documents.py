"""A document for AWS, and its forms: with commands for a shell, as JSON, and as Terraform."""

import json
import re
import shlex
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

_WIDTH = 96


class Terraform(NamedTuple):
    """A resource of Terraform's provider for AWS, or a local value.

    type: that of the resource; None for a local value. content: the argument, or the local value,
    that is the document as JSON; None if the document's own fields are the arguments.
    """

    type: str | None
    arguments: Mapping[str, str]
    content: str | None


class Document(NamedTuple):
    """A document for AWS.

    name: that of its file. title: what it is for, and where it belongs. reasons: why it has each
    of its statements or rules, by Sid or ID. command: that of AWS' command line, with {file}; with
    {before} for the document that it replaces.
    """

    name: str
    title: str
    content: Mapping[str, Any]
    reasons: Mapping[str, str]
    command: str
    terraform: Terraform


def slug(name: str) -> str:
    """Return a name that is safe in a shell, in IAM and in Terraform."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)


def words(*values: str) -> str:
    """Return words of a command, quoted for a shell."""
    return " ".join(map(shlex.quote, values))


def file_names(documents: Iterable[Document]) -> dict[str, Document]:
    """Return documents by a safe name, which is different for each."""
    named: dict[str, Document] = {}
    for document in documents:
        name = slug(document.name)
        while name in named:  # of a.b and a-b
            name += "-2"
        named[name] = document
    return named


def format_shell(documents: Iterable[Document], notes: Iterable[str]) -> str:
    """Return commands for a shell that write and use each document, with the reasons."""
    parts = [_comment(notes)]
    for name, document in file_names(documents).items():
        reasons = [f"{sid}: {reason}" for sid, reason in document.reasons.items()]
        command = document.command.replace("{file}", f"file://{name}.json")
        parts += [
            "",
            _comment([document.title, *reasons]),
            f"cat > {name}.json <<'END'\n{json.dumps(document.content, indent=2)}\nEND",
            command.replace("{before}", f"before-{name}.json"),
        ]
    return "\n".join(parts).strip() + "\n"


def format_json(documents: Iterable[Document]) -> str:
    """Return one JSON object with the documents by name."""
    named = file_names(documents).items()
    return json.dumps({name: document.content for name, document in named})


def format_terraform(documents: Iterable[Document], notes: Iterable[str]) -> str:
    """Return the resources of Terraform's provider for AWS, with the reasons as comments."""
    blocks = [_comment(notes)]
    for name, document in file_names(documents).items():
        blocks.append(f"{_comment([document.title])}\n{_terraform(name, document)}")
    return "\n\n".join(blocks).strip() + "\n"


def _comment(lines: Iterable[str], indent: str = "") -> str:
    """Return lines as comments, folded to the width of a page."""
    return "\n".join(
        textwrap.fill(line, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}#   ")
        for line in lines
    )


def _terraform(name: str, document: Document) -> str:
    kind, arguments, content = document.terraform
    lines = [f"  {name} = {_quote(value)}" for name, value in arguments.items()]
    if content is None:
        for field, value in document.content.items():
            lines += _blocks(_snake(field).removesuffix("s"), value, "  ", document.reasons)
    else:
        value = _expression(document.content, "  ", document.reasons)
        lines.append(f"  {content} = jsonencode({value})")
    head = "locals" if kind is None else f'resource "{kind}" "{name}"'
    return "\n".join([f"{head} {{", *lines, "}"])


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
