"""Glob patterns of object keys, as conditions that mean the same on both databases.

A pattern matches as `fnmatch.fnmatchcase` does: `*` stands for any text, slashes included, `?` for
one character, `[a-z]` for one of a set, `[!a-z]` for one outside of it. Case matters.
"""

import string
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, false, func, or_

from models import Grant

_WILDCARDS = "*?["
_SPECIAL = "]^-"  # in a set
_LAST_CHARACTER = 0x10FFFF


class _Set(NamedTuple):
    """One character in, or with is_negated outside of, any of these ranges."""

    ranges: tuple[tuple[str, str], ...]
    is_negated: bool


class _Wildcard(NamedTuple):
    """`*` or `?`."""

    character: str


_Token = str | _Set | _Wildcard


def is_glob(text: str) -> bool:
    """Tell whether a text has wildcards."""
    return any(character in text for character in _WILDCARDS)


def has_prefix(connection: Connection, prefix: str) -> ColumnElement[bool]:
    """Return the condition that an object key begins with a text, as a range."""
    # Not LIKE, which ignores case on SQLite.
    column = _by_code_point(connection)
    end = _after_prefix(prefix)
    is_after: ColumnElement[bool] = column >= prefix
    return is_after if end is None else and_(is_after, column < end)


def matches_glob(connection: Connection, pattern: str) -> ColumnElement[bool]:
    """Return the condition that an object key matches a pattern, or is the pattern itself.

    So a key that has wildcards in its name is found by its name.
    """
    tokens = _parse(pattern)
    literal = ""
    for token in tokens:
        if not isinstance(token, str):
            break
        literal += token
    is_match: ColumnElement[bool]
    if any(isinstance(token, _Set) and not (token.ranges or token.is_negated) for token in tokens):
        is_match = false()
    elif connection.dialect.name == "sqlite":
        is_match = func.glob("".join(map(_to_glob, tokens)), Grant.object_key)
    else:
        regex = "^" + "".join(map(_to_regex, tokens)) + "$"
        is_match = _by_code_point(connection).regexp_match(regex)
    is_found = or_(is_match, Grant.object_key == pattern)
    return and_(has_prefix(connection, literal), is_found) if literal else is_found


def _by_code_point(connection: Connection) -> ColumnElement[str]:
    """Return the object key as an expression that is compared by code points on both databases."""
    is_sqlite = connection.dialect.name == "sqlite"  # it has no other order
    column: ColumnElement[str] = Grant.object_key.expression
    return column if is_sqlite else column.collate("C")


def _after_prefix(prefix: str) -> str | None:
    """Return the first text after all that begin with a prefix, or None if there is none."""
    while prefix and ord(prefix[-1]) == _LAST_CHARACTER:
        prefix = prefix[:-1]
    if not prefix:
        return None
    following = ord(prefix[-1]) + 1
    if following == 0xD800:  # noqa: PLR2004 - no text contains the surrogates that begin here
        following = 0xE000
    return prefix[:-1] + chr(following)


def _parse(pattern: str) -> list[_Token]:
    tokens: list[_Token] = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        end = _set_end(pattern, position) if character == "[" else None
        if end is not None:
            tokens.append(_parse_set(pattern[position + 1 : end]))
            position = end
        elif character in "*?":
            if character == "?" or tokens[-1:] != [_Wildcard("*")]:  # `**` takes long to compare
                tokens.append(_Wildcard(character))
        else:
            tokens.append(character)
        position += 1
    return tokens


def _set_end(pattern: str, start: int) -> int | None:
    """Return the position of the bracket that ends a set; a bracket without an end is literal."""
    first = start + 1 + pattern.startswith("!", start + 1)
    end = pattern.find("]", first + 1)  # a bracket at the beginning of the set is one of its items
    return None if end < 0 else end


def _parse_set(content: str) -> _Set:
    is_negated = content.startswith("!")
    content = content[is_negated:]
    ranges = []
    position = 0
    while position < len(content):
        first = last = content[position]
        if content[position + 1 : position + 2] == "-" and position + 2 < len(content):
            last = content[position + 2]
            position += 2
        if first <= last:
            ranges.append((first, last))
        position += 1
    return _Set(tuple(ranges), is_negated)


def _to_glob(token: _Token) -> str:
    """Write a token as SQLite's GLOB reads it, which negates with `^`, and escapes nothing."""
    if isinstance(token, _Wildcard):
        return token.character
    if isinstance(token, str):
        return f"[{token}]" if token in _WILDCARDS else token
    if not token.ranges:
        return "?"
    singles, ranges = _split_special(token.ranges)
    content = "]" * ("]" in singles) + ranges + "".join(sorted(singles - set(_SPECIAL)))
    content += "^" * ("^" in singles) + "-" * ("-" in singles)
    if content.startswith("^") and not token.is_negated:  # it would negate
        return "[-^]" if content == "^-" else "^"
    return f"[{'^' * token.is_negated}{content}]"


def _split_special(ranges: tuple[tuple[str, str], ...]) -> tuple[set[str], str]:
    """Return single characters, and the ranges without the characters that GLOB reads otherwise.

    In a set, a closing bracket has to be the first item, a hyphen the last, a caret not the first.
    """
    singles, text = set(), ""
    for first, last in ranges:
        start, end = ord(first), ord(last)
        while start <= end and chr(start) in _SPECIAL:
            singles.add(chr(start))
            start += 1
        while start <= end and chr(end) in _SPECIAL:
            singles.add(chr(end))
            end -= 1
        if start == end:
            singles.add(chr(start))
        elif start < end:
            text += f"{chr(start)}-{chr(end)}"
    return singles, text


def _to_regex(token: _Token) -> str:
    """Write a token as PostgreSQL's regular expressions read it."""
    if isinstance(token, _Wildcard):
        return ".*" if token.character == "*" else "."
    if isinstance(token, str):
        return f"\\{token}" if token in string.punctuation else token
    if not token.ranges:
        return "."
    ranges = (f"\\U{ord(first):08x}-\\U{ord(last):08x}" for first, last in token.ranges)
    return f"[{'^' * token.is_negated}{''.join(ranges)}]"
