"""Columns of an input that are no part of a request: they are copied to the output."""

import json
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from valetkey.cli.printable import escape_unprintable
from valetkey.wire.refusals import Refusal
from valetkey.wire.replies import Grant

MAX_COPIED_COLUMNS = 256
"""The maximum number of copied columns, each of which JSON Lines may name in a later row."""

# `charged` and `refused` exist only in the output; the other names are those of the results.
OUTPUT_NAMES = frozenset({"charged", "refused", *Grant.__dataclass_fields__, *Refusal.model_fields})
# A column `URL` beside `url` would lead readers that ignore case to another address.
_LINK_NAMES = ("method", "url", "fields", "headers")
_SIMILARITY = 0.8  # of `expires` and `expires_in`; `name` and `filename` have 0.67


class Columns(NamedTuple):
    """The columns that rows may have.

    known: the columns that become part of the request; required: those that each row needs.
    options: the options that apply to all rows alike, which no column can set.
    ignored: columns to leave out; copied: columns to copy to the output whatever their name
    resembles. `*` stands for all unknown columns.
    """

    known: Sequence[str]
    required: Sequence[str] = ("key",)
    ignored: Sequence[str] = ()
    copied: Sequence[str] = ()
    options: frozenset[str] = frozenset()

    def is_ignored(self, name: str) -> bool:
        """Return True for an unknown column that the output leaves out."""
        return name in self.ignored or "*" in self.ignored

    def reject_copy(self, name: str) -> str | None:
        """Return why an unknown column is not copied to the output, or None if it is."""
        shown = escape_unprintable(name)
        drop = "leave it out with --ignore-columns"
        if not name.strip():
            return f"there is a column without a name: name it, or {drop} '*'"
        if name in OUTPUT_NAMES:
            return f"the output has a column `{shown}` of its own: rename yours, or {drop} {shown}"
        if name in self.copied or "*" in self.copied:
            return None
        plain = _simplify(name)
        if plain in map(_simplify, self.options - set(self.known)):
            option = plain_option(name)
            text = f"`{shown}` is no column, but an option for all rows, {option}"
            return f"{text}: use that, {_hint(shown)}"
        if similar := _find_similar(plain, (*self.known, *self.options)):
            return f"the unknown column `{shown}` resembles `{similar}`: correct it, {_hint(shown)}"
        text = f"`{shown}` resembles the output's own column `{plain}`: rename it, {_hint(shown)}"
        return text if plain in _LINK_NAMES else None


def plain_option(name: str) -> str:
    """Return the command-line option that a column seems to mean."""
    return "--" + name.strip().lower().replace("_", "-").replace(" ", "-")


def escape_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return copied values; one with text that is not valid UTF-8 becomes its escaped JSON."""
    return {name: v if is_encodable(v) else json.dumps(v) for name, v in values.items()}


def is_encodable(value: Any) -> bool:
    """Return False for a value with text that is not valid UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _hint(name: str) -> str:
    return (
        f"or copy it to the output with --copy-columns {name}, "
        f"or leave it out with --ignore-columns {name}"
    )


def _find_similar(plain: str, names: Iterable[str]) -> str | None:
    for name in names:
        if SequenceMatcher(None, plain, _simplify(name)).ratio() >= _SIMILARITY:
            return name
    return None


def _simplify(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())
