"""The filters that all queries of the audit log share, as SQL, and checks of the names in them.

A query joins `Chunk`, `Batch` and, for conditions on single items, `Grant`. A glob pattern matches
as `fnmatch.fnmatchcase` does: `*` stands for any text, slashes included, `?` for one character,
`[a-z]` and `[!a-z]` for one in or outside of a set, and case matters. A name is known if the config
has it now, if it ever had it, or if rows of requests have it.
"""

import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple, get_args

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    UnaryExpression,
    and_,
    false,
    func,
    or_,
    select,
)
from sqlalchemy.sql.operators import custom_op

from models import Batch, Bucket, Chunk, ConfigChange, Grant, TenantKey
from worker.audit.state_conditions import STATES, has_state, may_have_state
from worker.core.issued_grants import GrantName
from worker.ledger.tenant_history import FilterField, UnknownName, check_tenant, is_of_tenant

_WILDCARDS = "*?["
_SPECIAL = "]^-"  # in a set
_LAST_CHARACTER = 0x10FFFF


class _Set(NamedTuple):
    """One character in, or with is_negated outside of, any of these ranges."""

    ranges: tuple[tuple[str, str], ...]
    is_negated: bool


_Token = str | _Set | None
"""A character, one of a set, or for `*` None."""
_ANY_CHARACTER = _Set((), is_negated=True)


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
        elif character == "?":
            tokens.append(_ANY_CHARACTER)
        elif character == "*":
            if tokens[-1:] != [None]:  # `**` takes long to compare
                tokens.append(None)
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
    if token is None:
        return "*"
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
    if token is None:
        return ".*"
    if isinstance(token, str):
        return f"\\{token}" if token in string.punctuation else token
    if not token.ranges:
        return "."
    ranges = (f"\\U{ord(first):08x}-\\U{ord(last):08x}" for first, last in token.ranges)
    return f"[{'^' * token.is_negated}{''.join(ranges)}]"


_PLUS = custom_op[Any]("+")
ISSUED = "issued"
REFUSED = "refused"
"""The decision of every item that has a refusal code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantFilter:
    """Conditions that all have to match; None and an empty tuple match everything.

    tenant is an id, or a name, which selects all tenants that had it. buckets are names of bucket
    profiles, of which one has to match. key_glob is a pattern as in key_globs. signed_by is the
    name of a tenant's key; an empty string selects unsigned requests. decisions are `issued`,
    `refused` or refusal codes, of which one has to match. states are those of issued grants at the
    moment states_at, of which one has to match. since is included in the range, until is not.
    """

    tenant: str | None = None
    buckets: tuple[str, ...] = ()
    object_key: str | None = None
    prefix: str | None = None
    key_glob: str | None = None
    requester: str | None = None
    recipient: str | None = None
    signed_by: str | None = None
    decisions: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    states_at: datetime | None = None
    kind: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    batch_id: str | None = None
    grant: GrantName | None = None

    @property
    def selects_items(self) -> bool:
        """True if there are conditions on single items, besides those on batches and chunks."""
        values = (self.object_key, self.prefix, self.key_glob, self.grant)
        return bool(self.decisions or self.states) or any(value is not None for value in values)


def batch_conditions(
    connection: Connection, grant_filter: GrantFilter
) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions on `Batch` and `Chunk`."""
    grant = grant_filter.grant
    values = {
        Batch.requested_by: grant_filter.requester,
        Batch.recipient: grant_filter.recipient,
        Batch.kind: grant_filter.kind,
        Batch.batch_id: grant_filter.batch_id,
    }
    yield from (column == value for column, value in values.items() if value is not None)
    if grant is not None:
        yield Batch.batch_id == grant.batch_id
    if grant_filter.buckets:
        yield Batch.bucket.in_(grant_filter.buckets)
    for tenant in (grant_filter.tenant, grant and grant.tenant):
        if tenant is not None:
            yield is_of_tenant(connection, Batch.tenant, tenant)
    if grant_filter.signed_by is not None:
        signed_by = grant_filter.signed_by
        yield Chunk.signing_key == signed_by if signed_by else Chunk.signing_key.is_(None)
    if grant_filter.since is not None:
        yield Chunk.issued_at >= grant_filter.since
    if grant_filter.until is not None:
        yield Chunk.issued_at < grant_filter.until
    if grant_filter.decisions:
        # Skips whole chunks, without reading their items.
        yield or_(
            *(
                (Chunk.issued if name == ISSUED else Chunk.refused) > 0
                for name in grant_filter.decisions
            )
        )


def scan_conditions(
    connection: Connection, grant_filter: GrantFilter
) -> Iterator[ColumnElement[bool]]:
    """Yield conditions on `Batch` and `Chunk` that only save time, for queries that read many."""
    if grant_filter.states:
        yield may_have_state(connection, grant_filter.states, moment_of_states(grant_filter))


def item_conditions(
    connection: Connection, grant_filter: GrantFilter
) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions on `Grant`."""
    if grant_filter.grant is not None:
        yield Grant.item_number == grant_filter.grant.item_number
    if grant_filter.object_key is not None:
        yield Grant.object_key == grant_filter.object_key
    if grant_filter.prefix:
        yield has_prefix(connection, grant_filter.prefix)
    if grant_filter.key_glob is not None:
        yield matches_glob(connection, grant_filter.key_glob)
    if grant_filter.decisions:
        yield or_(*_decision_conditions(grant_filter.decisions))
    if grant_filter.states:
        moment = moment_of_states(grant_filter)
        yield has_state(connection, grant_filter.states, moment)


def moment_of_states(grant_filter: GrantFilter) -> datetime:
    """Return the moment of the states of a filter, which it must have."""
    if grant_filter.states_at is None:
        raise ValueError("a filter by state needs the moment of the states")
    return grant_filter.states_at


def join_items(connection: Connection, *columns: Any) -> Select[Any]:
    """Return a SELECT of columns from `Batch`, its `Chunk` rows and their `Grant` rows.

    SQLite knows too little of the tables to find out that batches are to be read first. There, the
    conditions of the joins can only be used in this order. PostgreSQL would infer that items have
    the batch of their `Batch`, too, and read all of that batch, to intersect them with the chunk's.
    """
    is_sqlite = connection.dialect.name == "sqlite"
    batch_number = _unindexed(Batch.batch_number) if is_sqlite else Batch.batch_number
    chunk_batch = _unindexed(Chunk.batch_number) if is_sqlite else Chunk.batch_number + 0
    return (
        select(*columns)
        .select_from(Batch)
        .join(Chunk, Chunk.batch_number == batch_number)
        .join(Grant, is_in_chunk(chunk_batch))
    )


def is_in_chunk(chunk_batch: Any = Chunk.batch_number) -> ColumnElement[bool]:
    """Return the condition that joins a chunk to its items."""
    first = Chunk.chunk_number * Batch.chunk_size
    return and_(
        Grant.batch_number == chunk_batch,
        Grant.item_number >= first,
        Grant.item_number < first + Batch.chunk_size,
    )


def _unindexed(column: Any) -> ColumnElement[int]:
    """Return a column as an expression that SQLite does not search by."""
    return UnaryExpression(column, operator=_PLUS)


def _decision_conditions(decisions: tuple[str, ...]) -> Iterator[ColumnElement[bool]]:
    if ISSUED in decisions:
        yield Grant.code.is_(None)
    if REFUSED in decisions:
        yield Grant.code.is_not(None)
    codes = sorted(set(decisions) - {ISSUED, REFUSED})
    if codes:
        yield Grant.code.in_(codes)


def _kinds() -> tuple[str, ...]:
    from valetkey.wire.terms import Kind  # noqa: PLC0415 - imports pydantic

    return get_args(Kind)


def _codes() -> list[str]:
    from valetkey.wire.refusals import Code  # noqa: PLC0415 - imports pydantic

    return [code.value for code in Code]


def _check_listed(field: FilterField, name: str, known_names: Iterable[str]) -> None:
    known_names = tuple(known_names)
    if name not in known_names:
        raise UnknownName(field, name, known_names)


def resolve_names(connection: Connection, grant_filter: GrantFilter) -> GrantFilter:
    """Check all names of a filter, and replace real buckets by the profiles that use them.

    Raises UnknownName.
    """
    if grant_filter.kind is not None:
        _check_listed("kind", grant_filter.kind, _kinds())
    for decision in grant_filter.decisions:
        if decision not in {ISSUED, REFUSED}:
            _check_listed("decision", decision, (ISSUED, REFUSED, *_codes()))
    for state in grant_filter.states:
        _check_listed("state", state, STATES)
    if grant_filter.tenant is not None:
        check_tenant(connection, grant_filter.tenant)
    if grant_filter.signed_by:
        _check_signing_key(connection, grant_filter.signed_by)
    profiles = {name for text in grant_filter.buckets for name in find_profiles(connection, text)}
    return replace(grant_filter, buckets=tuple(sorted(profiles)))


def find_profiles(connection: Connection, bucket: str) -> tuple[str, ...]:
    """Return the bucket profile of this name, and those that use, or used, a real bucket of it.

    Raises UnknownName if there are none.
    """
    configured = connection.execute(select(Bucket.name, Bucket.bucket)).all()
    pairs = {(row.name, row.bucket) for row in configured} | set(_former_profiles(connection))
    profiles = {profile for profile, real_bucket in pairs if bucket in {profile, real_bucket}}
    if profiles:
        return tuple(sorted(profiles))
    if _exists(connection, select(1).where(Batch.bucket == bucket)):
        return (bucket,)
    raise UnknownName("bucket", bucket, {name for pair in pairs for name in pair})


def _former_profiles(connection: Connection) -> Iterator[tuple[str, str]]:
    query = select(ConfigChange.path, ConfigChange.before, ConfigChange.after)
    for row in connection.execute(query.where(ConfigChange.path.like("buckets.%.bucket"))):
        _, profile, _ = row.path.split(".", 2)
        yield from ((profile, str(value)) for value in (row.before, row.after) if value)


def _check_signing_key(connection: Connection, name: str) -> None:
    known_names = set(connection.scalars(select(TenantKey.name)))
    paths = select(ConfigChange.path).where(ConfigChange.path.like("tenants.%.keys.%.sign"))
    known_names |= {path.split(".")[3] for path in connection.scalars(paths)}
    if name in known_names:
        return
    if not _exists(connection, select(1).where(Chunk.signing_key == name)):
        raise UnknownName("signed_by", name, known_names)


def _exists(connection: Connection, query: Select[Any]) -> bool:
    return connection.execute(query.limit(1)).first() is not None
