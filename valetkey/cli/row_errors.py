"""Errors of an input: one for the whole input, and refusals of single rows."""

import re
from typing import Self

from valetkey.wire.refusals import Code, Refusal

_MAX_SHOWN_CHARACTERS = 1_024
_ROW_FIELD = re.compile(r"rows\[([0-9]+)\](?:\.(.+))?")


class InputError(ValueError):
    """An error that makes the whole input unusable; the message states the cause."""


class RowRefusal(Refusal):
    """The refusal of a row that is never sent; its field names line and column: `rows[7].size`.

    A row has the number of the line where it begins. Lines are counted from 1, as editors do: a
    header is in line 1.
    """

    @classmethod
    def create(  # noqa: PLR0913, PLR0917 - the fields of a refusal
        cls,
        row_number: int,
        code: Code,
        message: str,
        column: str = "",
        limit: int | None = None,
        key: object = None,
        ref: object = None,
    ) -> Self:
        """Refuse a row, or its value in one column. Shows the key and the ref if they are texts."""
        field = f"rows[{row_number}].{column}" if column else f"rows[{row_number}]"
        shown_key = _shorten(key) if isinstance(key, str) else None
        shown_ref = _shorten(ref) if isinstance(ref, str) else None
        return cls(
            code=code, field=field, message=message, limit=limit, key=shown_key, ref=shown_ref
        )

    @property
    def row(self) -> str:
        """The number of the line where the row begins."""
        return self.field.partition("[")[2].partition("]")[0]


def renumber_refusal(refusal: Refusal, row_number: int) -> Refusal:
    """Return a refusal whose field names the row of the input, not the item of the message."""
    prefix, _, column = refusal.field.partition("]")
    if not prefix.startswith("items["):
        return refusal
    return refusal.model_copy(update={"field": f"rows[{row_number}]{column}"})


def find_row(refusal: Refusal) -> tuple[str, str] | None:
    """Return the line and the column that a refusal's field names; the column may be empty."""
    match = _ROW_FIELD.fullmatch(refusal.field)
    return None if match is None else (match[1], match[2] or "")


def _shorten(key: str) -> str:
    return key[:_MAX_SHOWN_CHARACTERS].encode(errors="backslashreplace").decode()
