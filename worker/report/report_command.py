"""Reads the figures of a report on the audit log, and writes it as a web page."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import click
from sqlalchemy import Connection, Row, and_, func, or_, select

from models import Annotation, Batch, Chunk, Grant
from worker import clock
from worker.audit.grant_filters import (
    ISSUED,
    GrantFilter,
    batch_conditions,
    note_pruned,
    read_filter,
    select_items,
)
from worker.audit.item_counts import (
    CountOptions,
    Dimension,
    ItemCount,
    count_items,
    describe_unit,
    seconds_per_unit,
    top_items,
)
from worker.audit.pruned_months import pruned_month
from worker.audit.state_conditions import GRANT_KEY
from worker.audit.text_conditions import batch_text, has_own_texts, joined_text, shown_text
from worker.base.database_engine import snapshot_transaction
from worker.cli.database import open_database
from worker.ledger import quota_usage
from worker.ledger.tenant_rows import load_config
from worker.proof.checkpoint_rows import read_tree_sizes
from worker.report.report_figures import (
    Breakdown,
    CheckpointState,
    LogState,
    PeriodUnit,
    Received,
    ReportFigures,
    Scope,
    Tally,
)
from worker.report.report_page import render_page
from worker.shared.command_options import (
    TEXT,
    chosen_zone,
    since_option,
    tenant_option,
    until_option,
    zone_option,
)
from worker.shared.quota_statuses import QuotaStatus, quota_statuses
from worker.shared.tenant_history import find_tenant_ids, first_id, is_of_tenant
from worker.shared.whole_files import write_private_file
from worker.webhooks.outbox import count_pending_webhooks

_DEFAULT_RANGE = timedelta(days=30)
_MAX_TITLE = 200  # characters
_STDOUT = "-"


@click.command("report")
@tenant_option
@click.option(
    "--bucket", type=TEXT, help="Only this bucket profile, or the profiles of this bucket."
)
@since_option
@until_option
@zone_option
@click.option("--title", type=TEXT, help="Title of the page.")
@click.option(
    "--out",
    required=True,
    metavar="FILE",
    help="File to write, which only its owner may read; - for standard output.",
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.pass_context
def report(
    context: click.Context, /, *, title: str | None, out: str, force: bool, **options: Any
) -> None:
    """Write a report on the audit log as one web page that loads nothing from a network.

    Shows who got what, issued and refused items by time, tenant, bucket, kind and reason,
    lifetimes, the largest requesters and keys, quotas, and the state of the log. Without --since,
    the report is about the last 30 days. Without --until, it ends now. With --tenant, it has
    nothing about other tenants.

    \b
    Examples:
      python -m worker audit report --since 30d --out report.html
      python -m worker audit report --tenant acme --since 2026-11 --tz Europe/Berlin --out acme.html
    """
    _check_out(out, force=force)
    if len(title or "") > _MAX_TITLE:
        text = f"a title has at most {_MAX_TITLE} characters"
        raise click.BadParameter(text, param_hint="--title")
    now = clock.now().replace(microsecond=0)
    scope = _build_scope(context, options, now)
    with open_database(snapshot_transaction) as connection:
        note_pruned(connection, scope.since)
        in_scope = options | {"since": scope.since, "until": scope.until}
        figures = read_report(connection, scope, read_filter(connection, in_scope), now)
    title = title or (f"Audit report: {scope.tenant}" if scope.tenant else "Audit report")
    page = render_page(figures, title)
    if out == _STDOUT:
        click.echo(page, nl=False)
    else:
        _write(Path(out), page, force=force)


def _build_scope(context: click.Context, options: dict[str, Any], now: datetime) -> Scope:
    until = options["until"] or now
    since = options["since"] or min(until, now) - _DEFAULT_RANGE
    # Whole seconds: the page shows the range exactly.
    since, until = (moment.replace(microsecond=0) for moment in (since, until))
    names = {name: options[name] for name in ("tenant", "bucket")}
    unit, zone = choose_unit(since, until), chosen_zone(context)
    return Scope(since=since, until=until, zone=zone, unit=unit, **names)


def _check_out(out: str, *, force: bool) -> None:
    """Refuse a file that cannot be written, before the database is read."""
    path = Path(out)
    if not out:  # as from an unset variable; Path would take it for the current folder
        raise click.BadParameter("the file has no name", param_hint="--out")
    if out == _STDOUT:
        return
    if path.exists() and not path.is_file():
        raise click.BadParameter(f"{path} is not a regular file", param_hint="--out")
    if path.exists() and not force:
        raise click.UsageError(f"{path} exists: name another --out, or add --force to replace it.")
    if not path.parent.is_dir():
        raise click.BadParameter(f"there is no folder {path.parent}", param_hint="--out")


def _write(path: Path, page: str, *, force: bool) -> None:
    try:
        write_private_file(path, page.encode(), replace=force)
    except FileExistsError:
        raise click.UsageError(f"{path} was written by another process: nothing changed.") from None
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}.") from None
    click.echo(f"{path}: {len(page.encode()):,} bytes", err=True)


MAX_YEARS = 20
_HOUR = 3_600
_LONGEST: dict[PeriodUnit, timedelta] = {
    "hour": timedelta(days=3),
    "day": timedelta(days=93),  # a quarter, and the hour that it can be longer
    "month": timedelta(days=366 * MAX_YEARS),
}


def choose_unit(since: datetime, until: datetime) -> PeriodUnit:
    """Return the unit in which a report shows a range. Raises click.UsageError."""
    if since >= until:
        text = f"the range ends at {until:%F %T} UTC, before it begins"
        raise click.UsageError(f"--since and --until: {text}.")
    for unit, longest in _LONGEST.items():
        if until - since <= longest:
            return unit
    raise click.UsageError(f"--since and --until: the range is longer than {MAX_YEARS} years.")


def period_names(scope: Scope) -> list[str]:
    """Return the names of all periods of a report's range, as `audit count` names them."""
    seconds = seconds_per_unit(scope.unit, scope.zone)
    first = int(scope.since.timestamp()) // seconds
    last = int((scope.until - timedelta(microseconds=1)).timestamp()) // seconds
    # An hour is the shortest period: no period is skipped by steps of an hour.
    units = [*range(first, last + 1, max(_HOUR // seconds, 1)), last]
    return list(dict.fromkeys(describe_unit(scope.unit, scope.zone, unit) for unit in units))


TABLE_ROWS = 50
_RECIPIENTS, _NEWEST = 20, 3  # recipients whose grants are shown, and grants of each
_MAX_CODES = 1_000  # more than there are refusal codes
_GROUPED: tuple[Dimension, ...] = ("tenant", "bucket", "kind")
_LARGEST: tuple[Dimension, ...] = ("requester", "recipient", "key")
_LIFETIMES = {
    "up to 1 minute": 60,
    "1 to 5 minutes": 300,
    "5 to 15 minutes": 900,
    "15 minutes to 1 hour": 3_600,
    "1 to 6 hours": 21_600,
    "6 hours to 1 day": 86_400,
    "1 to 7 days": 604_800,
}
_LONGEST_LIFETIME = "over 7 days"


def read_report(
    connection: Connection, scope: Scope, grant_filter: GrantFilter, now: datetime
) -> ReportFigures:
    """Read the figures of a report. grant_filter has the range and the filters of its scope."""
    groups = count_items(connection, grant_filter, CountOptions(_GROUPED))
    lifetimes = _count_lifetimes(connection, grant_filter)
    codes = top_items(connection, grant_filter, "code", _MAX_CODES)
    breakdowns = {
        **{f"{name}s": _break_down(_to_tally(each, name) for each in groups) for name in _GROUPED},
        "codes": _break_down(map(_to_tally, codes)),
        "lifetimes": _group_lifetimes(lifetimes),
        "limits": _break_down(Tally(each.limited_by, each.issued, 0) for each in lifetimes),
        **{f"{name}s": _read_largest(connection, grant_filter, name, groups) for name in _LARGEST},
    }
    requesters = _count_requesters(connection, grant_filter)
    breakdowns["requesters"] = replace(breakdowns["requesters"], groups=requesters)
    has_recipients = breakdowns["recipients"].rows
    return ReportFigures(
        scope=scope,
        generated_at=now,
        periods=_read_periods(connection, scope, grant_filter),
        breakdowns=breakdowns,
        received=tuple(_read_received(connection, grant_filter)) if has_recipients else (),
        states=_read_states(connection, grant_filter, now),
        quotas=tuple(_read_quotas(connection, scope.tenant, now)),
        log=_read_log_state(connection, scope.tenant),
        pruned_month=pruned_month(connection, scope.since),
    )


def _count_lifetimes(
    connection: Connection, grant_filter: GrantFilter
) -> Sequence[Row[int, str, int]]:
    """Count issued grants by their lifetime in seconds and by the rule that limited it."""
    query = (
        select(Chunk.expires_in, Chunk.limited_by, func.sum(Chunk.issued).label("issued"))
        .join(Batch, Batch.batch_number == Chunk.batch_number)
        .where(*batch_conditions(connection, grant_filter), Chunk.issued > 0)
        .group_by(Chunk.expires_in, Chunk.limited_by)
        .order_by(Chunk.expires_in, Chunk.limited_by)
    )
    return connection.execute(query).all()


def _count_requesters(connection: Connection, grant_filter: GrantFilter) -> int:
    number = func.count(shown_text(Batch, "requested_by").distinct())
    query = select(number).select_from(Chunk)
    query = query.join(Batch, Batch.batch_number == Chunk.batch_number)
    return connection.scalar(query.where(*batch_conditions(connection, grant_filter))) or 0


def _read_periods(
    connection: Connection, scope: Scope, grant_filter: GrantFilter
) -> tuple[Tally, ...]:
    options = CountOptions((scope.unit,), scope.zone)
    counts = count_items(connection, grant_filter, options)
    numbers = {count.group[0]: (count.issued, count.refused) for count in counts}
    return tuple(Tally(name, *numbers.get(name, (0, 0))) for name in period_names(scope))


def _to_tally(count: ItemCount, dimension: Dimension | None = None) -> Tally:
    """Return a count by one dimension, or the share of one of _GROUPED in a count by all."""
    index = _GROUPED.index(dimension) if dimension else 0
    return Tally(str(count.group[index]), count.issued, count.refused)


def _break_down(tallies: Iterable[Tally]) -> Breakdown:
    """Sum tallies by name; return the largest sums first, and the sum of those without a row."""
    by_name = groupby(sorted(tallies), lambda tally: tally.name)
    sums = [_sum(name, group) for name, group in by_name]
    largest = sorted(sums, key=lambda tally: (-tally.total, tally.name))
    rest = largest[TABLE_ROWS:]
    return Breakdown(tuple(largest[:TABLE_ROWS]), _sum("", rest) if rest else None, len(largest))


def _sum(name: str, tallies: Iterable[Tally]) -> Tally:
    issued, refused = zip(*((tally.issued, tally.refused) for tally in tallies), strict=True)
    return Tally(name, sum(issued), sum(refused))


def _read_largest(
    connection: Connection,
    grant_filter: GrantFilter,
    dimension: Dimension,
    groups: Iterable[ItemCount],
) -> Breakdown:
    """Return the largest groups. Counting all different keys would read them once more."""
    # One more than there are rows, because items for no recipient are a group as well.
    counts = top_items(connection, grant_filter, dimension, TABLE_ROWS + 1)
    rows = tuple(_to_tally(count) for count in counts if count.group[0] is not None)[:TABLE_ROWS]
    issued = sum(count.issued for count in groups) - sum(row.issued for row in rows)
    refused = sum(count.refused for count in groups) - sum(row.refused for row in rows)
    others = Tally("", issued, refused) if issued or refused else None
    return Breakdown(rows, others, None if others else len(rows))


def _read_received(connection: Connection, grant_filter: GrantFilter) -> Iterator[Received]:
    """Yield what the recipients with the most grants got."""
    columns = (joined_text("recipient"), *GRANT_KEY, Grant.object_key, Chunk.issued_at)
    has_recipients = or_(batch_text("recipient").is_not(None), has_own_texts())
    is_own = and_(
        Annotation.batch_number == Grant.batch_number, Annotation.item_number == Grant.item_number
    )
    grants = select_items(connection, grant_filter, columns).outerjoin(Annotation, is_own)
    items = grants.where(has_recipients, Grant.code.is_(None)).subquery().c
    number = func.count()
    largest = (
        select(items.recipient, number, func.count(items.object_key.distinct()))
        .where(items.recipient.is_not(None))
        .group_by(items.recipient)
        .order_by(number.desc(), items.recipient)
        .limit(_RECIPIENTS)
    )
    rows = connection.execute(largest).all()
    order = items.batch_number.desc(), items.item_number.desc()
    rank = func.row_number().over(partition_by=items.recipient, order_by=order).label("rank")
    of_these = items.recipient.in_([name for name, _, _ in rows])
    ranked = select(items.recipient, items.issued_at, items.object_key, rank).where(of_these)
    ranks = ranked.subquery().c
    newest = defaultdict[str, list[tuple[datetime, str]]](list)
    query = select(ranks.recipient, ranks.issued_at, ranks.object_key)
    query = query.where(ranks.rank <= _NEWEST).order_by(ranks.rank)
    for name, time, key in connection.execute(query):
        newest[name].append((time, key))
    for name, grants_, objects in rows:
        yield Received(name, grants_, objects, tuple(newest[name]))


def _group_lifetimes(counts: Iterable[Row[int, str, int]]) -> Breakdown:
    """Return the lifetimes by range, shortest first, without empty ranges at both ends."""
    sums = dict.fromkeys((*_LIFETIMES, _LONGEST_LIFETIME), 0)
    for count in counts:
        ranges = (name for name, longest in _LIFETIMES.items() if count.expires_in <= longest)
        sums[next(ranges, _LONGEST_LIFETIME)] += count.issued
    names = list(sums)
    used = [number for number, name in enumerate(names) if sums[name]]
    shown = names[used[0] : used[-1] + 1] if used else []
    return Breakdown(tuple(Tally(name, sums[name], 0) for name in shown), None, len(shown))


def _read_states(
    connection: Connection, grant_filter: GrantFilter, now: datetime
) -> Mapping[str, Mapping[str, int]]:
    of_grants = replace(grant_filter, decisions=(ISSUED,), states_at=now)
    counts = count_items(connection, of_grants, CountOptions(("kind", "state")))
    kinds: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for count in counts:
        kinds[str(count.group[0])][str(count.group[1])] = count.issued
    return kinds


def _read_quotas(
    connection: Connection, tenant_name: str | None, now: datetime
) -> Iterable[QuotaStatus]:
    id_ = None if tenant_name is None else first_id(tenant_name)
    for tenant in load_config(connection).tenants.values():
        if id_ is None or tenant_name == tenant.name or id_ == tenant.id:
            used = quota_usage.read_usage(connection, tenant.id, now)
            yield from quota_statuses(tenant, used, now, include_unlimited=False)


def _read_log_state(connection: Connection, tenant: str | None) -> LogState:
    is_of = () if tenant is None else (is_of_tenant(connection, Batch.tenant, tenant),)
    rows = select(func.sum(Chunk.issued + Chunk.refused)).where(*is_of)
    if tenant is not None:
        rows = rows.join(Batch, Batch.batch_number == Chunk.batch_number)
    batches = select(func.count()).select_from(Batch).where(*is_of)
    ids = None if tenant is None else find_tenant_ids(connection, tenant)
    webhooks = count_pending_webhooks(connection).items()
    trees = read_tree_sizes(connection, tenant)
    return LogState(
        rows=int(connection.scalar(rows) or 0),
        batches=connection.scalar(batches) or 0,
        trees=len(trees),
        leaves=sum(tree.size for tree in trees),
        unsigned_leaves=sum(tree.size - (tree.signed_size or 0) for tree in trees),
        pending_webhooks=sum(number for (id_, _), number in webhooks if ids is None or id_ in ids),
        checkpoints=tuple(
            CheckpointState(tree.tenant, tree.signed_size, tree.signed_at)
            for tree in trees
            if tree.signed_size is not None and tree.signed_at is not None
        ),
    )
