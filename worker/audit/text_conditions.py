"""Texts of the audit log as SQL: what is shown of them, and which match a pattern.

A glob pattern matches as `fnmatch.fnmatchcase` does: `*` stands for any text, slashes included, `?`
for one character, `[a-z]` and `[!a-z]` for one in or outside of a set, and case matters. Producers'
texts are compared as they are shown, and without regard to the case of A to Z.
"""

import fnmatch
import re
import string
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    case,
    func,
    literal_column,
    null,
    or_,
    select,
)

from models import Annotation, Batch, Grant
from models.grants import INDEXED_TEXTS
from worker.rules.annotations import SALT_SUFFIX

ERASED = "(erased)"
"""The words in place of a text that was erased."""
_ERASED: ColumnElement[str] = literal_column(f"'{ERASED}'")

_TO_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_WILDCARDS = "*?["
_LAST_CHARACTER = chr(0x10FFFF)
MAX_LENGTH = 1_024
"""The characters of the longest object key. No other text of the log is as long."""


def is_glob(text: str) -> bool:
    """Return true if a text has wildcards."""
    return any(character in text for character in _WILDCARDS)


def has_prefix(column: Any, prefix: str) -> ColumnElement[bool]:
    """Return the condition that a column by code points begins with a text, as a range."""
    # Not LIKE, which ignores case on SQLite.
    return and_(column >= prefix, column <= prefix + _LAST_CHARACTER * MAX_LENGTH)


def matches_glob(connection: Connection, column: Any, pattern: str) -> ColumnElement[bool]:
    """Return the condition that a column by code points matches a pattern, or is the pattern.

    So a key that has wildcards in its name is found by its name.
    """
    # On SQLite, SQLAlchemy defines REGEXP by Python's `re`.
    is_sqlite = connection.dialect.name == "sqlite"
    regex = fnmatch.translate(pattern) if is_sqlite else _PARTS.sub(_to_regex, pattern) + r"\Z"
    is_match = column.regexp_match(rf"\A{regex}")
    literal = re.split(f"[{re.escape(_WILDCARDS)}]", pattern)[0]
    is_found = or_(is_match, column == pattern)
    return and_(has_prefix(column, literal), is_found) if literal else is_found


def by_code_point(connection: Connection, column: Any) -> Any:
    """Return a text as an expression that is compared by code points on both databases."""
    is_sqlite = connection.dialect.name == "sqlite"  # it has no other order
    return column if is_sqlite else column.collate("C")


_PARTS = re.compile(r"(\*+)|(\?)|\[(!?+)(.[^]]*)\]|(.)", re.DOTALL)
_RANGES = re.compile("(.)-(.)|(.)", re.DOTALL)


def _to_regex(part: re.Match[str]) -> str:
    """Return the expression for a part of a pattern; a bracket without an end is literal."""
    stars, mark, negation, characters, literal = part.groups()
    if stars or mark:  # `**` as `.*.*` takes long to compare
        return ".*" if stars else "."
    if literal:
        return f"\\{literal}" if literal in string.punctuation else literal
    bounds = [(first or one, last or one) for first, last, one in _RANGES.findall(characters)]
    ranges = [f"\\U{ord(a):08x}-\\U{ord(b):08x}" for a, b in bounds if a <= b]
    if not ranges:
        return "." if negation else r"\Z."  # which matches nothing
    return f"[{'^' * bool(negation)}{''.join(ranges)}]"


def shown_text(table: Any, name: str) -> ColumnElement[Any]:
    """Return what is shown of a text of a table that has its salt, NULL if there never was one."""
    text, salt = getattr(table, name), getattr(table, name + SALT_SUFFIX)
    return case((text.is_not(None), text), (salt.is_not(None), _ERASED)).label(name)


def batch_text(name: str) -> ColumnElement[Any]:
    """Return the text of a batch, which its items have that have none of their own."""
    return shown_text(Batch, name) if hasattr(Batch, name) else null().label(name)


def item_text(name: str) -> ColumnElement[Any]:
    """Return the text of an item: its own, or else its batch's."""
    # A query that joined the table would search it for all its rows before it leaves some out.
    own = (
        select(shown_text(Annotation, name))
        .where(Annotation.batch_number == Grant.batch_number)
        .where(Annotation.item_number == Grant.item_number)
        .correlate(Grant)
        .scalar_subquery()
    )
    return func.coalesce(own, batch_text(name)).label(name)


def joined_text(name: str) -> ColumnElement[Any]:
    """Return the same as item_text, in a query that joins `Annotation` with `Batch`."""
    return func.coalesce(shown_text(Annotation, name), batch_text(name)).label(name)


def has_own_texts() -> ColumnElement[bool]:
    """Return the condition that items of a batch have texts of their own."""
    own = select(Annotation.batch_number).where(Annotation.batch_number == Batch.batch_number)
    return own.correlate(Batch).exists()


def matches_text(
    connection: Connection, text: ColumnElement[Any], pattern: str
) -> ColumnElement[bool]:
    """Return the condition that a shown text is, or matches, a pattern in any case."""
    # By code points, PostgreSQL has no lower case of other letters, as SQLite.
    lower, pattern = func.lower(by_code_point(connection, text)), pattern.translate(_TO_LOWER)
    is_equal: ColumnElement[bool] = lower == pattern
    return matches_glob(connection, lower, pattern) if is_glob(pattern) else is_equal


def is_match(text: str | None, pattern: str) -> bool:
    """Return true if a text that was read matches, by the rules of matches_text."""
    if text is None:
        return False
    text, pattern = text.translate(_TO_LOWER), pattern.translate(_TO_LOWER)
    return text == pattern or (is_glob(pattern) and fnmatch.fnmatchcase(text, pattern))


def may_have_text(connection: Connection, name: str, pattern: str) -> ColumnElement[bool]:
    """Return the condition that a batch, or one of its items, has a text that matches."""
    of_batch = matches_text(connection, batch_text(name), pattern)
    own = select(Annotation.batch_number)
    if name in INDEXED_TEXTS and not is_glob(pattern) and pattern.translate(_TO_LOWER) != ERASED:
        own = own.where(func.lower(getattr(Annotation, name)) == func.lower(pattern))
        return or_(of_batch, Batch.batch_number.in_(own))
    own = own.where(matches_text(connection, shown_text(Annotation, name), pattern))
    own = own.where(Annotation.batch_number == Batch.batch_number).correlate(Batch)
    return or_(of_batch, own.exists())
