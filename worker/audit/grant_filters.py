"""The filters that all queries of the audit log share: as options, as SQL, with names checked.

A query joins `Chunk`, `Batch` and, for conditions on single items, `Grant`. A name is known if the
config has it now, if it ever had it, or if rows of requests have it.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, get_args

import click
from sqlalchemy import ColumnElement, Connection, Select, case, false, or_, select, true

from models import Batch, Bucket, Chunk, ConfigChange, Grant, TenantKey
from valetkey.cli.format_options import add_options
from worker import clock
from worker.audit.pruned_months import pruned_month
from worker.audit.state_conditions import STATES, has_state, may_have_state
from worker.audit.text_conditions import (
    ERASED,
    MAX_LENGTH,
    by_code_point,
    has_prefix,
    is_glob,
    item_text,
    matches_glob,
    matches_text,
    may_have_text,
    shown_text,
)
from worker.rules.annotations import ANNOTATION_FIELDS, ItemTexts
from worker.shared.command_options import (
    TEXT,
    Command,
    parse_cursor,
    refuse_empty_range,
    since_option,
    tenant_option,
    until_option,
    zone_option,
)
from worker.shared.grant_items import is_in_chunk
from worker.shared.grant_names import GrantName
from worker.shared.pages import did_you_mean
from worker.shared.tenant_history import FilterField, UnknownName, check_tenant, is_of_tenant

ISSUED = "issued"
REFUSED = "refused"
"""The decision of every item that has a refusal code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantFilter(ItemTexts):
    """Conditions that all have to match; None and an empty tuple match everything.

    tenant is an id, or a name, which selects all tenants that had it. buckets are names of bucket
    profiles, and one of them has to match. prefix is the beginning of an object key, key_glob a
    pattern. requester and the texts of items are as shown, in any case, or patterns, in which `*`
    and `?` are wildcards. signed_by is the name of a tenant's key; an empty string
    selects unsigned requests. decisions are `issued`, `refused` or refusal codes, and one of
    them has to match. states are those of issued grants at the time states_at, and one of them has
    to match.
    since is included in the range, until is not.
    """

    tenant: str | None = None
    buckets: tuple[str, ...] = ()
    object_key: str | None = None
    prefix: str | None = None
    key_glob: str | None = None
    requester: str | None = None
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
    def texts(self) -> dict[str, str]:
        """The patterns of the texts that items can have."""
        values = {name: getattr(self, name) for name in ANNOTATION_FIELDS}
        return {name: pattern for name, pattern in values.items() if pattern is not None}

    @property
    def selects_items(self) -> bool:
        """True if there are conditions on single items, besides those on their texts."""
        values = (self.object_key, self.prefix, self.key_glob, self.grant)
        return bool(self.decisions or self.states) or any(value is not None for value in values)


def batch_conditions(
    connection: Connection, grant_filter: GrantFilter
) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions on `Batch` and `Chunk`."""
    grant = grant_filter.grant
    batch_ids = grant_filter.batch_id, grant and grant.batch_id
    pairs = ((Batch.kind, grant_filter.kind), *((Batch.batch_id, each) for each in batch_ids))
    yield from (column == value for column, value in pairs if value is not None)
    if grant_filter.requester is not None:
        requested_by = shown_text(Batch, "requested_by")
        yield matches_text(connection, requested_by, grant_filter.requester)
    yield from (may_have_text(connection, *text) for text in grant_filter.texts.items())
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
    """Yield the conditions on `Grant`, and on `Batch` if there are texts."""
    object_key = by_code_point(connection, Grant.object_key)
    for name, pattern in grant_filter.texts.items():
        # PostgreSQL takes it for so rare that it would sort all items instead of reading a page.
        yield case((matches_text(connection, item_text(name), pattern), true()), else_=false())
    if grant_filter.grant is not None:
        yield Grant.item_number == grant_filter.grant.item_number
    if grant_filter.object_key is not None:
        yield Grant.object_key == grant_filter.object_key
    if grant_filter.prefix:
        yield has_prefix(object_key, grant_filter.prefix)
    if grant_filter.key_glob is not None:
        yield matches_glob(connection, object_key, grant_filter.key_glob)
    if grant_filter.decisions:
        yield or_(*_decision_conditions(grant_filter.decisions))
    if grant_filter.states:
        moment = moment_of_states(grant_filter)
        yield has_state(connection, grant_filter.states, moment)


def moment_of_states(grant_filter: GrantFilter) -> datetime:
    """Return the time of the states of a filter. Raises ValueError if it has none."""
    if grant_filter.states_at is None:
        raise ValueError("a filter by state needs the time of the states")
    return grant_filter.states_at


def select_items(
    connection: Connection, grant_filter: GrantFilter, columns: Iterable[Any]
) -> Select[Any]:
    """Return a SELECT of columns from the rows of `Batch`, `Chunk` and `Grant` that match.

    SQLite knows too little of the tables to find out that batches are to be read first. There, the
    conditions of the joins can only be used in this order. PostgreSQL would infer that items have
    the batch of their `Batch`, too, and read all of that batch, to intersect them with the chunk's.
    """
    # No database searches by a sum.
    batch_number: Any = Batch.batch_number
    if connection.dialect.name == "sqlite":
        batch_number = Batch.batch_number + 0
    return (
        select(*columns)
        .select_from(Batch)
        .join(Chunk, Chunk.batch_number == batch_number)
        .join(Grant, is_in_chunk(chunk_batch=Chunk.batch_number + 0))
        .where(*batch_conditions(connection, grant_filter))
        .where(*item_conditions(connection, grant_filter))
    )


def _decision_conditions(decisions: tuple[str, ...]) -> Iterator[ColumnElement[bool]]:
    if ISSUED in decisions:
        yield Grant.code.is_(None)
    if REFUSED in decisions:
        yield Grant.code.is_not(None)
    codes = sorted(set(decisions) - {ISSUED, REFUSED})
    if codes:
        yield Grant.code.in_(codes)


def resolve_names(connection: Connection, grant_filter: GrantFilter) -> GrantFilter:
    """Check all names of a filter, and replace real buckets by the profiles that use them.

    Raises UnknownName.
    """
    if grant_filter.kind is not None:
        from valetkey.wire.terms import Kind  # noqa: PLC0415 - imports pydantic

        _check("kind", (grant_filter.kind,), get_args(Kind))
    codes = [name for name in grant_filter.decisions if name not in {ISSUED, REFUSED}]
    if codes:
        from valetkey.wire.refusals import Code  # noqa: PLC0415 - imports pydantic

        _check("decision", codes, (ISSUED, REFUSED, *(code.value for code in Code)))
    _check("state", grant_filter.states, STATES)
    if grant_filter.tenant is not None:
        check_tenant(connection, grant_filter.tenant)
    if grant_filter.signed_by:
        _check_signing_key(connection, grant_filter.signed_by)
    profiles = {name for text in grant_filter.buckets for name in find_profiles(connection, text)}
    return replace(grant_filter, buckets=tuple(sorted(profiles)))


def _check(field: FilterField, names: Iterable[str], known_names: tuple[str, ...]) -> None:
    for name in names:
        if name not in known_names:
            raise UnknownName(field, name, known_names)


def find_profiles(connection: Connection, bucket: str) -> tuple[str, ...]:
    """Return the bucket profile of this name, and those that use, or used, a real bucket of it.

    Raises UnknownName if there are none.
    """
    pairs = read_profiles(connection)
    profiles = {profile for profile, real_bucket in pairs if bucket in {profile, real_bucket}}
    if profiles:
        return tuple(sorted(profiles))
    if _is_used(connection, Batch.bucket == bucket):
        return (bucket,)
    raise UnknownName("bucket", bucket, {name for pair in pairs for name in pair})


def read_profiles(connection: Connection) -> set[tuple[str, str]]:
    """Return each bucket profile with each real bucket that it uses, or is known to have used."""
    configured = connection.execute(select(Bucket.name, Bucket.bucket))
    pairs = {(profile, bucket) for profile, bucket in configured}
    query = select(ConfigChange.path, ConfigChange.before, ConfigChange.after)
    for row in connection.execute(query.where(ConfigChange.path.like("buckets.%.bucket"))):
        _, profile, _ = row.path.split(".", 2)
        pairs |= {(profile, str(value)) for value in (row.before, row.after) if value}
    return pairs


def _check_signing_key(connection: Connection, name: str) -> None:
    known_names = set(connection.scalars(select(TenantKey.name)))
    paths = select(ConfigChange.path).where(ConfigChange.path.like("tenants.%.keys.%.sign"))
    known_names |= {path.split(".")[3] for path in connection.scalars(paths)}
    if name not in known_names and not _is_used(connection, Chunk.signing_key == name):
        raise UnknownName("signed_by", name, known_names)


def _is_used(connection: Connection, condition: ColumnElement[bool]) -> bool:
    return connection.scalar(select(1).where(condition).limit(1)) is not None


_MAX_TEXT = 200  # characters, as of what producers send
_CONTROLS = {*map(chr, range(0x20)), "\x7f"}
_SCHEME = "s3://"
_EXAMPLE_GLOB = "acme/2026/*.pdf"


def _parse_batch(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    if text is not None and set(text) & set("./"):
        raise click.BadParameter("a batch's id has no dot and no slash: --grant takes a grant's id")
    return None if text is None else text.strip().lower()


def _parse_text(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    if text is None or (0 < len(text) <= _MAX_TEXT and not _CONTROLS.intersection(text)):
        return text
    raise click.BadParameter(f"write 1 to {_MAX_TEXT} characters, none of them a control character")


def _text_option(name: str, what: str) -> Callable[[Command], Command]:
    """Return the filter by a text of producers."""
    help_ = f"Only {what}; `*` and `?` are wildcards, and A to Z are as a to z. {ERASED} if erased."
    return click.option(f"--{name}", type=TEXT, callback=_parse_text, help=help_)


def _split_names(
    _context: click.Context, _option: click.Parameter, texts: tuple[str, ...]
) -> tuple[str, ...]:
    return tuple(word.strip() for text in texts for word in text.split(","))


filter_options = add_options(
    tenant_option,
    click.option(
        "--bucket", type=TEXT, help="Only this bucket profile, or the profiles of this bucket."
    ),
    click.option(
        "--key",
        type=TEXT,
        help=f"Only this object key, the keys that match a pattern such as {_EXAMPLE_GLOB!r}, or"
        " either in a bucket, as in s3://BUCKET/KEY. `*` also matches slashes.",
    ),
    click.option("--prefix", type=TEXT, help="Only object keys that begin with this prefix."),
    _text_option("requester", "requests with this `requested_by`"),
    *(_text_option(name, f"items with this {name}") for name in ANNOTATION_FIELDS),
    click.option(
        "--signed-by",
        type=TEXT,
        help='Only requests signed with the tenant\'s key of this name; "" selects unsigned ones.',
    ),
    click.option(
        "--decision",
        "decisions",
        type=TEXT,
        multiple=True,
        callback=_split_names,
        help="Only `issued` or `refused` items, or those refused with this code. Several, as"
        " in key_invalid,key_traversal, select each of them.",
    ),
    click.option(
        "--state",
        "states",
        type=TEXT,
        multiple=True,
        callback=_split_names,
        help=f"Only issued grants that are in this state now: {', '.join(STATES)}. Several, as in"
        " late,unused, select each of them.",
    ),
    click.option("--kind", type=TEXT, help="Only this kind: download, upload, put, …"),
    since_option,
    until_option,
    zone_option,
    click.option(
        "--batch", "batch_id", type=TEXT, callback=_parse_batch, help="Only the batch of this id."
    ),
    click.option("--grant", type=TEXT, callback=parse_cursor, help="Only the grant of this id."),
)
"""Adds all options that select audit rows, and --tz, to a command: their values for read_filter."""


def read_filter(connection: Connection, options: Mapping[str, Any]) -> GrantFilter:
    """Return the filter that options of filter_options describe, with every name checked.

    Raises click.UsageError for an unknown name, with the most similar known one, and for a range
    that ends before it begins.
    """
    names = {field.name for field in fields(GrantFilter)}
    values = {name: value for name, value in options.items() if name in names}
    refuse_empty_range(options["since"], options["until"])
    decisions = options.get("decisions")
    if options.get("states") and decisions and ISSUED not in decisions:
        text = "--state selects issued grants, and --decision refused items: no item is both"
        raise click.UsageError(text)
    values["object_key"], values["key_glob"], bucket = _parse_key(options.get("key"))
    try:
        grant_filter = resolve_names(connection, GrantFilter(**values, states_at=clock.now()))
        buckets = _select_buckets(connection, options.get("bucket"), bucket)
        return replace(grant_filter, buckets=buckets)
    except UnknownName as error:
        hint = f"--{error.field.replace('_', '-')}"
        if error.field == "bucket" and error.name == bucket:
            hint = "--key"
        raise click.BadParameter(str(error), param_hint=hint) from None


def parse_columns(text: str, known_names: Collection[str], otherwise: str) -> tuple[str, ...]:
    """Split names of columns at commas. Raises click.BadParameter, with a hint for unknown ones."""
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in known_names:
            hint = did_you_mean(name, known_names, otherwise)
            raise click.BadParameter(f"there is no column {name!r}{hint}")
    return names


def note_empty_result() -> None:
    """Say on stderr that nothing matches, so that an empty output is not taken for a failure."""
    click.echo("No item of the audit log matches.", err=True)


def note_pruned(connection: Connection, since: datetime | None) -> None:
    """Say on stderr that `audit prune` has removed items from a range, if it has."""
    month = pruned_month(connection, since)
    if month is not None:
        text = f"`audit prune` removed the items of chunks that were issued before {month} (UTC)."
        click.echo(text, err=True)


def _parse_key(text: str | None) -> tuple[str | None, str | None, str | None]:
    """Return the exact key, the pattern and the bucket that --key has."""
    if text is None:
        return None, None, None
    bucket, key = None, text
    if text.startswith(_SCHEME):
        bucket, _, key = text.removeprefix(_SCHEME).partition("/")
    if not key or bucket == "":
        example = f"s3://{bucket or 'BUCKET'}/{_EXAMPLE_GLOB}" if bucket is not None else "acme/*"
        raise click.BadParameter(f"a key must not be empty: try {example!r}", param_hint="--key")
    if not is_glob(key):
        return key, None, bucket
    if len(key) > MAX_LENGTH:
        text = f"a pattern has at most {MAX_LENGTH:,} characters, as keys do"
        raise click.BadParameter(text, param_hint="--key")
    return None, key, bucket


def _select_buckets(connection: Connection, *names: str | None) -> tuple[str, ...]:
    """Return the bucket profiles that every given name selects."""
    selected = [set(find_profiles(connection, name)) for name in names if name is not None]
    if not selected:
        return ()
    common = set.intersection(*selected)
    if not common:
        raise click.UsageError("--bucket and --key name different buckets")
    return tuple(sorted(common))
