"""Tables of quotas, of policy rules, of the service, and of states and uses; also as JSON."""

import json
from collections.abc import Iterable, Iterator

import click
from pydantic_core import to_jsonable_python

from valetkey.cli.descriptions import describe_cause
from valetkey.cli.terminal_text import escape_unprintable, print_table
from valetkey.units import (
    describe_duration,
    describe_live_reset,
    describe_size,
    format_amount,
    format_utc,
)
from valetkey.waits import StoredObject
from valetkey.wire.refusals import QuotaState
from valetkey.wire.replies import Explanation, RuleVerdict, ServiceInfo, UseState, UseStates

_PENDING = frozenset({"open", "undecided"})
_STYLES = {"used": "green", "mismatched": "red", "late": "yellow", "overwritten": "yellow"}
_BAR_COLUMNS = 10
_SECONDS = frozenset({"max_message_age", "max_clock_skew", "max_expires_in"})
_DECISIONS = {"issue": "issued", "refuse": "refused"}


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


def show_quotas(quotas: Iterable[QuotaState], output_format: str | None) -> None:
    """Print a table of quotas with a bar for each, or one JSON object a line."""
    if output_format == "json":
        for quota in quotas:
            values = quota.model_dump(mode="json", exclude={"asked"})
            click.echo(json.dumps(values | {"left": quota.left}))
        return
    rows = [_quota_row(quota) for quota in quotas]
    print_table(("quota", "", "used", "limit", "left", "resets at (UTC)"), rows)


def show_explanation(explanation: Explanation, output_format: str | None) -> None:
    """Print each rule's verdict and the decision, or all of it as one JSON object."""
    if output_format == "json":
        click.echo(json.dumps(explanation.model_dump(mode="json")))
        return
    rows = [_rule_row(verdict) for verdict in explanation.rules]
    print_table(("rule", "verdict", "detail"), rows, wrap_last=True)
    decision = _DECISIONS.get(explanation.decision, explanation.decision)
    click.echo(f"\nIt would be {escape_unprintable(decision)}.")


def show_service(service: ServiceInfo, output_format: str | None) -> None:
    """Print the versions, kinds and limits of the service, or all of them as one JSON object."""
    if output_format == "json":
        click.echo(json.dumps(service.model_dump(mode="json")))
        return
    rows = [
        ("release", service.release),
        ("wire versions", ", ".join(map(str, service.versions))),
        ("asks", ", ".join(service.asks)),
        ("kinds", ", ".join(service.kinds)),
        *((name, _limit_text(name, value)) for name, value in service.limits),
    ]
    print_table(
        ("service", ""), [list(map(escape_unprintable, row)) for row in rows], wrap_last=True
    )


def _limit_text(name: str, value: int) -> str:
    if name.endswith("_bytes"):
        return describe_size(value)
    return describe_duration(value) if name in _SECONDS else f"{value:,}"


def _quota_row(quota: QuotaState) -> tuple[str, ...]:
    name = escape_unprintable(f"{quota.metric}.{quota.window}")
    amounts = (format_amount(quota.metric, n) for n in (quota.used, quota.limit, quota.left))
    resets_at = (
        f"{quota.resets_at:%Y-%m-%d %H:%M}"
        if quota.resets_at
        else describe_live_reset(quota.metric)
    )
    return (name, _quota_bar(quota), *amounts, resets_at)


def _quota_bar(quota: QuotaState) -> str:
    full = _BAR_COLUMNS if quota.left == 0 else quota.used * _BAR_COLUMNS // quota.limit
    style = "red" if quota.left == 0 else "yellow" if quota.warns else "green"
    return click.style("━" * full, style) + "─" * (_BAR_COLUMNS - full)


def _rule_row(verdict: RuleVerdict) -> tuple[str, ...]:
    rule, detail = escape_unprintable(verdict.rule), escape_unprintable(verdict.found)
    if verdict.refusal is None:
        return (rule, click.style("ok", "green"), detail)
    reason = describe_cause(verdict.refusal)
    return (rule, click.style("refused", "red"), f"{detail}: {reason}" if detail else reason)
