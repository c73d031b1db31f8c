"""Problems that a verification of the audit log finds, with the rows that they are about."""

from typing import NamedTuple, Self

from worker.db.tree.stored_values import WrongValue


class Problem(NamedTuple):
    """A row that is not as it was written, and what is wrong with it.

    number is that of a leaf, of a config change or of an unknown batch, or the size of a
    checkpoint. Of what only a range of rows can be said, last_item or last_number ends the range.
    leaf is the number of the leaf from which the row differs.
    """

    table: str
    text: str
    tenant: str | None = None
    batch: str | None = None
    chunk: int | None = None
    item: int | None = None
    last_item: int | None = None
    column: str | None = None
    number: int | None = None
    last_number: int | None = None
    leaf: int | None = None

    @classmethod
    def of_value(cls, table: str, error: WrongValue, **place: str | int | None) -> Self:
        """Return the problem of a value that cannot be read."""
        found = cls(table, error.problem, column=error.column)
        return found._replace(**place)  # type: ignore[arg-type]

    def __str__(self) -> str:
        parts = (
            ("tenant", self.tenant, None),
            ("batch", self.batch, None),
            ("chunk", self.chunk, None),
            ("item", self.item, self.last_item),
            (_NUMBERS.get(self.table, "number"), self.number, self.last_number),
            ("column", self.column, None),
        )
        place = ", ".join(_place(*part) for part in parts if part[1] is not None)
        return f"{self.table}: {place}: {self.text}" if place else f"{self.table}: {self.text}"


_NUMBERS = {
    "leaves": "leaf",
    "checkpoints": "size",
    "config_changes": "change",
    "tree_heads": "size",
}


def _place(name: str, first: str | int | None, last: int | None) -> str:
    return f"{name} {first}" if last is None or last == first else f"{name}s {first} to {last}"


class Found(Exception):
    """A problem; leaf is the tenant and the number of the leaf that the rows differ from."""

    def __init__(self, problem: Problem, leaf: tuple[str, int] | None = None) -> None:
        super().__init__(str(problem))
        self.problem = problem if leaf is None else problem._replace(leaf=leaf[1])
        self.leaf = leaf
