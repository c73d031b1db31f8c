"""States and uses of grants, as tables and as JSON."""

import json
from collections.abc import Iterator

import click
from pydantic_core import to_jsonable_python

from valetkey.cli.printable import escape_unprintable
from valetkey.cli.table_layout import print_table
from valetkey.units import describe_size, format_utc
from valetkey.uses.stored import StoredObject
from valetkey.wire.uses import UseState, UseStates

_PENDING = frozenset({"open", "undecided"})
_STYLES = {"used": "green", "mismatched": "red", "late": "yellow", "overwritten": "yellow"}


def show_states(states: UseStates, output_format: str | None) -> None:
    """Print the state of a grant or the counts of a batch, or all of it as one JSON object."""
    if output_format == "json":
        click.echo(json.dumps(states.model_dump(mode="json", exclude_none=True)))
        return
    if states.items:
        for state in states.items:
            rows = [(name, escape_unprintable(text)) for name, text in _fields(states, state)]
            style = _STYLES.get(state.state)
            print_table(("state", click.style(escape_unprintable(state.state), style)), rows)
        return
    rows = [(escape_unprintable(state), f"{n:,}") for state, n in states.counts.items()]
    items = "item" if states.total == 1 else "items"
    print_table(("state", f"of {states.total:,} {items}"), rows)


def is_settled(states: UseStates) -> bool:
    """Return true if no grant can be used for the first time any more."""
    named = {state.state for state in states.items} | states.counts.keys()
    return not named & _PENDING


def describe_stored(stored: StoredObject) -> str:
    """Describe a stored object in one line."""
    parts = [describe_size(stored.size)]
    parts += [f"etag {stored.etag}"] if stored.etag else []
    parts += [f"version {stored.version}"] if stored.version else []
    parts += [f"at {format_utc(stored.stored_at)}"]
    return escape_unprintable(f"stored {stored.key!r}: {', '.join(parts)}")


def stored_json(stored: StoredObject) -> str:
    """Return a stored object as one JSON object."""
    return json.dumps(to_jsonable_python(stored._asdict()))


def _fields(states: UseStates, state: UseState) -> Iterator[tuple[str, str]]:
    yield "batch", f"item {state.item} of {states.total:,}, {states.kind} in {states.bucket}"
    if state.key is not None:
        yield "key", state.key
    if state.expires_at is not None:
        yield "until", format_utc(state.expires_at)
    yield "uses", f"{state.uses:,}"
    if state.stored_at is not None:
        yield "stored", f"{format_utc(state.stored_at)}, {describe_size(state.size or 0)}"
    for name in ("etag", "version", "checksum", "content_type", "problem"):
        text = getattr(state, name)
        if text is not None:
            yield name.replace("_", " "), text
