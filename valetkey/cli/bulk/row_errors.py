"""What is wrong with an input: with all of it, or with one of its rows."""

from typing import Self

from valetkey.wire.refusals import Code, Refusal

_LONGEST_SHOWN = 1_024  # characters


class InputError(ValueError):
    """An input of which no row can be asked for; the message says why."""


class RowRefusal(Refusal):
    """The refusal of a row that is never asked for; its field names the row: `rows[7].size`.

    Rows are counted from 1, as editors count lines and spreadsheets rows: a header is row 1.
    """

    @classmethod
    def of(  # noqa: PLR0913, PLR0917 - the fields of a refusal
        cls,
        number: int,
        code: Code,
        message: str,
        column: str = "",
        limit: int | None = None,
        key: object = None,
    ) -> Self:
        """Refuse a row, or what it has in one column; its key is shown where it is text."""
        field = f"rows[{number}].{column}" if column else f"rows[{number}]"
        shown = _shown(key) if isinstance(key, str) else None
        return cls(code=code, field=field, message=message, limit=limit, key=shown)

    @property
    def row(self) -> str:
        """The row's number."""
        return self.field.partition("[")[2].partition("]")[0]


def refusal_for_row(refusal: Refusal, number: int) -> Refusal:
    """What the service refuses an item of a message for, said of the row that it came from."""
    place, _, column = refusal.field.partition("]")
    if not place.startswith("items["):
        return refusal
    return refusal.model_copy(update={"field": f"rows[{number}]{column}"})


def _shown(key: str) -> str:
    return key[:_LONGEST_SHOWN].encode(errors="backslashreplace").decode()
