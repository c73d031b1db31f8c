"""Reads the descriptions of fields from the docstrings of the messages."""

import inspect
import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

_FIELD_LINE = re.compile(r"(\w+(?:, \w+)*): (.+)")


class Description(NamedTuple):
    """The text of a docstring, and the texts of the fields that it describes."""

    text: str
    fields: dict[str, str]


def read_description(docstring: str, field_names: Collection[str]) -> Description:
    """Split a docstring into its text and the descriptions of fields.

    A description begins on a line like `name: text` or `name, name: text`, and ends before the next
    such line or an empty line. A line with a name that is no field belongs to the text.
    """
    text: list[str] = []
    fields: dict[str, str] = {}
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        plain, described = _read_paragraph(paragraph, field_names)
        text += [plain] if plain else []
        fields |= described
    return Description("\n\n".join(text), fields)


def describe_class(described_class: type, field_names: Collection[str]) -> Description:
    """Return the description of a class; its fields can be described by its base classes."""
    fields: dict[str, str] = {}
    for base in reversed(described_class.__mro__):
        fields |= read_description(base.__doc__ or "", field_names).fields
    text = read_description(described_class.__doc__ or "", field_names).text
    return Description(text, fields)


def _read_paragraph(paragraph: str, field_names: Collection[str]) -> tuple[str, dict[str, str]]:
    plain: list[str] = []
    fields: dict[str, list[str]] = {}
    names: list[str] = []
    for line in paragraph.splitlines():
        match = _FIELD_LINE.fullmatch(line)
        if match is not None and set(match[1].split(", ")) <= set(field_names):
            names = match[1].split(", ")
            fields |= {name: [match[2]] for name in names}
        elif names:
            for name in names:
                fields[name].append(line.strip())
        else:
            plain.append(line.strip())
    return " ".join(plain), dict(_sentences(fields))


def _sentences(fields: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    for name, lines in fields.items():
        text = " ".join(lines)
        first_word = text.partition(" ")[0].rstrip(",;:")
        yield name, text[0].upper() + text[1:] if first_word.isalpha() else text
