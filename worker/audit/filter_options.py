"""The options that select audit rows, in every command that reads the audit log of grants."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import Any, NamedTuple

import click
from sqlalchemy import Connection

from worker import clock
from worker.audit.grant_filters import ISSUED, GrantFilter, find_profiles, resolve_names
from worker.audit.state_conditions import STATES
from worker.audit.text_conditions import ERASED, is_glob
from worker.base.pages import did_you_mean
from worker.cli.command_options import (
    TEXT,
    Command,
    parse_cursor,
    refuse_empty_range,
    since_option,
    tenant_option,
    until_option,
    zone_option,
)
from worker.core.annotations import ANNOTATION_FIELDS
from worker.ledger.tenant_history import UnknownName, pruned_month

_MAX_GLOB = 1_024  # characters
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


_OPTIONS = (
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
_FILTER_FIELDS = frozenset(field.name for field in fields(GrantFilter)) - {"buckets", "states_at"}
_HINTS = {"decision": "--decision", "signed_by": "--signed-by"}


def filter_options(command: Command) -> Command:
    """Add all options that select audit rows, and --tz, to a command.

    The command passes their values to read_filter.
    """
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_filter(connection: Connection, options: Mapping[str, Any]) -> GrantFilter:
    """Return the filter that the options of filter_options describe, with every name checked.

    Raises click.UsageError for an unknown name, with the most similar known one, and for a range
    that ends before it begins.
    """
    values = {name: value for name, value in options.items() if name in _FILTER_FIELDS}
    refuse_empty_range(values["since"], values["until"])
    _refuse_states_of_refused(values["states"], values["decisions"])
    key = _parse_key(options["key"])
    try:
        unresolved = GrantFilter(
            **values, object_key=key.exact, key_glob=key.glob, states_at=clock.now()
        )
        grant_filter = resolve_names(connection, unresolved)
        buckets = _select_buckets(connection, options["bucket"], key.bucket)
        return replace(grant_filter, buckets=buckets)
    except UnknownName as error:
        hint = _HINTS.get(error.field, f"--{error.field}")
        if error.field == "bucket" and error.name == key.bucket:
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


def _refuse_states_of_refused(states: Sequence[str], decisions: Sequence[str]) -> None:
    if states and decisions and ISSUED not in decisions:
        text = "--state selects issued grants, and --decision refused items: no item is both"
        raise click.UsageError(text)


class _KeyOption(NamedTuple):
    exact: str | None = None
    glob: str | None = None
    bucket: str | None = None


def _parse_key(text: str | None) -> _KeyOption:
    if text is None:
        return _KeyOption()
    bucket, key = None, text
    if text.startswith(_SCHEME):
        bucket, _, key = text.removeprefix(_SCHEME).partition("/")
    if not key or bucket == "":
        example = f"s3://{bucket or 'BUCKET'}/{_EXAMPLE_GLOB}" if bucket is not None else "acme/*"
        raise click.BadParameter(f"a key must not be empty: try {example!r}", param_hint="--key")
    if not is_glob(key):
        return _KeyOption(exact=key, bucket=bucket)
    if len(key) > _MAX_GLOB:
        text = f"a pattern has at most {_MAX_GLOB:,} characters, as keys do"
        raise click.BadParameter(text, param_hint="--key")
    return _KeyOption(glob=key, bucket=bucket)


def _select_buckets(connection: Connection, *names: str | None) -> tuple[str, ...]:
    """Return the bucket profiles that every given name selects."""
    selected = [set(find_profiles(connection, name)) for name in names if name is not None]
    if not selected:
        return ()
    common = set.intersection(*selected)
    if not common:
        raise click.UsageError("--bucket and --key name different buckets")
    return tuple(sorted(common))
