"""Sections of the report about time, quotas and the log itself."""

from datetime import datetime

from markupsafe import Markup

from valetkey.units import format_amount
from worker.audit_report.charts import Bar, draw_periods, draw_ranking
from worker.audit_report.commands import render_command, tenant_option
from worker.audit_report.figures import LogState, ReportFigures, Scope
from worker.audit_report.tables import (
    Cell,
    Column,
    isolate,
    name_cell,
    number_cell,
    render_table,
    text_cell,
)
from worker.core.quotas.status import QuotaStatus

WIDE_CHART, NARROW_CHART = 960, 300
_FULL = 100  # percent
_CHART_QUOTAS = 8
_TABLE_QUOTAS = 200
_MAX_CHART_TENANT = 20  # characters, so that the quota has room beside it

_TIME = Markup("""\
<section id="time" aria-labelledby="time-title">
<h2 id="time-title">By {unit}</h2>
<p class="summary">{summary}</p>
<figure class="wide">
<div class="wide-only">{wide}</div>
<div class="narrow-only">{narrow}</div>
</figure>
{table}
{command}
</section>""")
_QUOTAS = Markup("""\
<section id="quotas" aria-labelledby="quotas-title">
<h2 id="quotas-title">Quota headroom</h2>
<p class="summary">{summary}</p>
{content}
{command}
</section>""")
_LOG = Markup("""\
<section id="log" aria-labelledby="log-title">
<h2 id="log-title">State of the log</h2>
<p class="summary">{summary}</p>
<dl class="facts">
{facts}
</dl>
{table}
</section>""")
_PAIR = Markup('<div class="pair">\n<figure>{}</figure>\n{}\n</div>')


def time_section(figures: ReportFigures) -> Markup:
    """Render issued and refused items by hour, day or month."""
    unit, periods = figures.scope.unit, figures.periods
    columns = (
        Column(unit.capitalize()),
        Column("Issued", is_number=True),
        Column("Refused", is_number=True),
    )
    rows = [
        (name_cell(period.name), number_cell(period.issued), number_cell(period.refused))
        for period in periods
    ]
    busiest = max(periods, key=lambda period: period.issued + period.refused)
    summary = f"Busiest {unit}: {busiest.name}, {busiest.issued:,} issued"
    return _TIME.format(
        unit=unit,
        summary=f"{summary} and {busiest.refused:,} refused. The first and last may be partial.",
        wide=draw_periods(periods, unit, WIDE_CHART),
        narrow=draw_periods(periods, unit, NARROW_CHART),
        table=render_table(f"By {unit}", columns, rows),
        command=render_command(f"audit count --by {unit}", figures.scope, has_zone=True),
    )


def quota_section(figures: ReportFigures) -> Markup:
    """Render how much of each quota is used now, the fullest first."""
    quotas = sorted(figures.quotas, key=lambda quota: (-_used(quota), quota.tenant))
    if not quotas:
        return _QUOTAS.format(summary="There are no quotas.", content="", command="")
    full = sum(quota.left == 0 for quota in quotas)
    warning = sum(quota.warns and quota.left != 0 for quota in quotas)
    summary = (
        f"At the time of this report: {_count(len(quotas), 'quota')}, "
        f"{full:,} used up and {warning:,} more above their warning mark."
    )
    if len(quotas) > _TABLE_QUOTAS:
        summary += f" Shown are the {_TABLE_QUOTAS} with the least left."
    chart = draw_ranking([_quota_bar(quota) for quota in quotas[:_CHART_QUOTAS]], _FULL)
    return _QUOTAS.format(
        summary=summary,
        content=_PAIR.format(chart, _quota_table(quotas[:_TABLE_QUOTAS])),
        command=render_command(f"quota show{tenant_option(figures.scope)}"),
    )


def _used(quota: QuotaStatus) -> float:
    return quota.used / quota.limit if quota.limit else 0


def _quota_bar(quota: QuotaStatus) -> Bar:
    share = min(_used(quota) * _FULL, _FULL)
    mark = None
    if quota.warn_at is not None and quota.limit:
        mark = min(quota.warn_at / quota.limit * _FULL, _FULL)
    tenant = quota.tenant
    if len(tenant) > _MAX_CHART_TENANT:
        tenant = f"{tenant[: _MAX_CHART_TENANT - 1]}…"
    name = f"{tenant}  {quota.metric}.{quota.window}"
    is_full = quota.left == 0
    return Bar(name, f"{quota.percent}%", 0 if is_full else share, share if is_full else 0, mark)


def _quota_table(quotas: list[QuotaStatus]) -> Markup:
    titles = ("Used", "Limit", "Left", "Share")
    columns = [Column("Tenant"), Column("Quota"), *(Column(t, is_number=True) for t in titles)]
    rows = [
        (
            name_cell(quota.tenant),
            text_cell(f"{quota.metric}.{quota.window}"),
            *(
                Cell(format_amount(quota.metric, number or 0), number or 0)
                for number in (quota.used, quota.limit, quota.left)
            ),
            Cell(f"{quota.percent}%", quota.percent or 0),
        )
        for quota in quotas
    ]
    return render_table("Quotas", columns, rows)


def log_section(figures: ReportFigures) -> Markup:
    """Render the size of the whole log, and what its signed checkpoints cover."""
    log = figures.log
    numbers = {
        "Rows": ("rows", log.rows),
        "Batches": ("batches", log.batches),
        "Merkle trees": ("trees", log.trees),
        "Leaves": ("leaves", log.leaves),
        "Unsigned leaves": ("unsigned", log.unsigned_leaves),
        "Pending webhooks": ("webhooks", log.pending_webhooks),
    }
    facts = Markup("\n").join(
        Markup('<div><dt>{}</dt><dd data-figure="{}" data-value="{}">{:,}</dd></div>').format(
            title, id_, number, number
        )
        for title, (id_, number) in numbers.items()
    )
    return _LOG.format(
        summary=_describe_checkpoints(figures.scope, log),
        facts=facts,
        table=_checkpoint_table(figures.scope, log),
    )


def _describe_checkpoints(scope: Scope, log: LogState) -> str:
    whose = "of this tenant" if scope.tenant else "of all tenants"
    text = f"The whole log {whose}, not only the period of this report."
    if not log.checkpoints:
        return f"{text} There is no checkpoint yet, so nothing can prove that it is unchanged."
    return f"{text} A checkpoint proves later changes to the leaves that it signed."


def _checkpoint_table(scope: Scope, log: LogState) -> Markup:
    if not log.checkpoints:
        return Markup("")
    columns = (Column("Tree"), Column("Signed leaves", is_number=True), Column("Signed at"))
    rows = [
        (
            name_cell(checkpoint.tenant),
            number_cell(checkpoint.size),
            Cell(format_moment(checkpoint.signed_at, scope), checkpoint.signed_at.isoformat()),
        )
        for checkpoint in log.checkpoints
    ]
    return render_table("Newest checkpoint of each tree", columns, rows)


def format_moment(moment: datetime, scope: Scope) -> str:
    """Format a moment in the zone of a report, to the second if it has seconds."""
    local = moment.astimezone(scope.zone)
    return f"{local:%Y-%m-%d %H:%M:%S}" if local.second else f"{local:%Y-%m-%d %H:%M}"


def headline_checkpoint(log: LogState, scope: Scope) -> Markup:
    """Render the newest checkpoint of all trees for the head of the report."""
    if not log.checkpoints:
        return Markup('<dd class="words">No checkpoint yet</dd>')
    newest = max(log.checkpoints, key=lambda checkpoint: checkpoint.signed_at)
    when = format_moment(newest.signed_at, scope)
    tree = "" if scope.tenant else Markup("tree {}").format(isolate(newest.tenant))
    return Markup('<dd class="words">{}</dd><dd>{}</dd>').format(when, tree)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
