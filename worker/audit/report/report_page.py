"""The report as one HTML page that loads nothing from elsewhere, with its sections.

page.html, page.css and page.js are its parts. Its Content-Security-Policy allows only these.
"""

from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple, get_args

from markupsafe import Markup

from valetkey.cli.terminal_text import escape_unprintable
from valetkey.units import format_amount
from worker.audit.report.report_charts import (
    Bar,
    Cell,
    Row,
    describe_share,
    draw_periods,
    draw_ranking,
    isolate,
    name_cell,
    number_cell,
    render_table,
    share_cell,
    text_cell,
)
from worker.audit.report.report_figures import (
    Breakdown,
    LogState,
    ReportFigures,
    Scope,
    Tally,
    render_command,
    tenant_option,
)
from worker.contract.contract_command import read_codes
from worker.core.quota_rules import QuotaStatus
from worker.uses.use_rules import GrantState

CHART_ROWS = 8
_SHORT_ROWS = 15  # sections with so few rows are printed on one page
_MAX_CHART_NAME = 80  # characters; the picture cuts what has no room
_SECTION = Markup("""\
<section id="{id}"{css} aria-labelledby="{id}-title">
<h2 id="{id}-title">{title}</h2>
<p class="summary">{summary}</p>
{content}
{end}
</section>""")
_CHART_AND_TABLE = Markup('<div class="pair">\n<figure>{}</figure>\n{}\n</div>')
_KEY = Markup(
    '<p class="key" aria-hidden="true"><span class="issued">Issued</span>'
    '<span class="refused">Refused</span></p>'
)


class Section(NamedTuple):
    """A section of the page. end follows its content; a short one is printed on one page."""

    id: str
    title: str
    summary: str
    content: Markup
    end: Markup = Markup("")
    is_short: bool = False

    def render(self) -> Markup:
        """Return the section as HTML."""
        css = Markup(' class="short"') if self.is_short else ""
        return _SECTION.format(css=css, **self._asdict())


class Topic(NamedTuple):
    """A breakdown: its texts, the decisions that it counts, and how `audit count` names it.

    is_ordered keeps the given order of the groups, such as that of lifetimes. others names the
    items that are in none of the rows, if their groups are not counted.
    """

    id: str
    title: str
    column: str
    noun: str
    issued: bool = True
    refused: bool = True
    is_ordered: bool = False
    by: str = ""
    others: str = "All others"

    def size(self, tally: Tally) -> int:
        """Count the items of a tally that the topic is about."""
        return tally.issued * self.issued + tally.refused * self.refused


TOPICS = (
    Topic("tenants", "Tenants", "Tenant", "tenant", by="count --by tenant"),
    Topic("buckets", "Buckets", "Bucket profile", "bucket profile", by="count --by bucket"),
    Topic("kinds", "Kinds", "Kind", "kind", by="count --by kind"),
    Topic("codes", "Reasons for refusals", "Code", "code", issued=False, by="top codes"),
    Topic("lifetimes", "Lifetimes", "Lifetime", "range", refused=False, is_ordered=True),
    Topic("limits", "What limited lifetimes", "Limit", "limit", refused=False),
    Topic("requesters", "Requesters", "Requester", "requester", by="top requesters"),
    Topic(
        *("recipients", "Recipients", "Recipient", "recipient"),
        by="top recipients",
        others="All others, and items for no recipient",
    ),
    Topic("keys", "Object keys", "Object key", "key", by="top keys"),
)


def _breakdown_sections(figures: ReportFigures) -> Iterator[Section]:
    """Yield the sections that have any figures. A tenant's own report has no other tenants."""
    for topic in TOPICS:
        breakdown: Breakdown = getattr(figures, topic.id)
        if breakdown.rows and not (topic.id == "tenants" and _is_of_one_tenant(figures)):
            yield _breakdown_section(figures.scope, topic, breakdown)


def _is_of_one_tenant(figures: ReportFigures) -> bool:
    return figures.scope.tenant is not None and len(figures.tenants.rows) < 2  # noqa: PLR2004


def _breakdown_section(scope: Scope, topic: Topic, breakdown: Breakdown) -> Section:
    total = sum(map(topic.size, filter(None, (*breakdown.rows, breakdown.others))))
    # A bar of all others would be so long that it hid the differences between the shown ones.
    shown = breakdown.rows if topic.is_ordered else breakdown.rows[:CHART_ROWS]
    chart = draw_ranking([_bar(topic, tally) for tally in shown])
    if topic.issued and topic.refused:
        chart = _KEY + chart
    return Section(
        topic.id,
        topic.title,
        _summarize_breakdown(topic, breakdown, total),
        _CHART_AND_TABLE.format(chart, _tabulate_breakdown(topic, breakdown, total)),
        render_command(f"audit {topic.by}", scope) if topic.by else Markup(""),
        is_short=len(breakdown.rows) <= _SHORT_ROWS,
    )


def _summarize_breakdown(topic: Topic, breakdown: Breakdown, total: int) -> Markup:
    items = {(True, True): "items", (True, False): "grants", (False, True): "refusals"}
    noun = items[topic.issued, topic.refused]
    largest = max(breakdown.rows, key=topic.size)
    share = Markup("{}: {} of the {}.").format(
        isolate(largest.name), describe_share(topic.size(largest), total), noun
    )
    if breakdown.groups is None:
        return Markup("The {} largest. First {}").format(len(breakdown.rows), share)
    if breakdown.groups == 1:
        return Markup("One {}, {}").format(topic.noun, share)
    if topic.is_ordered:
        return Markup("Most common is {}").format(share)
    return Markup("{:,} {}s. Largest is {}").format(breakdown.groups, topic.noun, share)


def _bar(topic: Topic, tally: Tally) -> Bar:
    return Bar(
        _shorten(escape_unprintable(tally.name), _MAX_CHART_NAME),
        f"{topic.size(tally):,}",
        tally.issued if topic.issued else 0,
        tally.refused if topic.refused else 0,
    )


def _shorten(name: str, size: int) -> str:
    return name if len(name) <= size else f"{name[: size - 1]}…"


def _tabulate_breakdown(topic: Topic, breakdown: Breakdown, total: int) -> Markup:
    decisions = {"Issued": topic.issued, "Refused": topic.refused, "Share": True}
    columns = [topic.column, *(title for title, is_shown in decisions.items() if is_shown)]
    meanings = {code.code: code.meaning for code in read_codes()} if topic.id == "codes" else None
    if meanings is not None:
        columns.append("Meaning")

    def row(name: Cell, tally: Tally) -> Row:
        cells = [name]
        cells += [number_cell(tally.issued)] if topic.issued else []
        cells += [number_cell(tally.refused)] if topic.refused else []
        cells += [share_cell(topic.size(tally), total)]
        cells += [text_cell(meanings.get(tally.name, ""))] if meanings is not None else []
        return cells

    rows = [
        row(name_cell(tally.name, number if topic.is_ordered else None), tally)
        for number, tally in enumerate(breakdown.rows)
    ]
    foot = []
    if breakdown.others is not None:
        text = topic.others
        if breakdown.groups is not None:
            text = f"{breakdown.groups - len(breakdown.rows):,} others"
        foot.append(row(text_cell(text), breakdown.others))
    return render_table(topic.title, columns, rows, foot)


def _states_section(figures: ReportFigures) -> Section:
    """Render the issued grants by kind and by their state at the time of the report."""
    totals: Counter[str] = Counter()
    for numbers in figures.states.values():
        totals.update(numbers)
    shown = [state for state in get_args(GrantState) if totals[state]]
    chart = draw_ranking([Bar(state, f"{totals[state]:,}", totals[state]) for state in shown])
    return Section(
        "states",
        "What became of grants",
        _summarize_states(totals),
        _CHART_AND_TABLE.format(chart, _tabulate_states(figures.states, shown, totals)),
        render_command("audit count --by kind,state --decision issued", figures.scope),
        is_short=True,
    )


def _summarize_states(totals: Counter[str]) -> str:
    known = totals.total() - totals["open"] - totals["unknown"]
    share = describe_share(known, totals.total())
    return (
        f"At the time of this report, it is known what became of {share} of the grants. Unknown are"
        " those that ended, and of which nothing tells a use."
    )


def _tabulate_states(
    kinds: Mapping[str, Mapping[str, int]], shown: list[str], totals: Counter[str]
) -> Markup:
    columns = ["Kind", *map(str.capitalize, shown)]
    rows = [
        (name_cell(kind), *(number_cell(numbers.get(state, 0)) for state in shown))
        for kind, numbers in kinds.items()
    ]
    foot = [(text_cell("All kinds"), *(number_cell(totals[state]) for state in shown))]
    return render_table("States of grants by kind", columns, rows, foot if len(kinds) > 1 else ())


WIDE_CHART, NARROW_CHART = 960, 300
_FULL = 100  # percent
_CHART_QUOTAS = 8
_TABLE_QUOTAS = 200
_QUOTAS_TITLE = "Quota headroom"
_MAX_CHART_TENANT = 20  # characters, so that the quota has room beside it

_PERIODS = Markup("""\
<figure class="wide">
<div class="wide-only">{}</div>
<div class="narrow-only">{}</div>
</figure>
{}""")


def _time_section(figures: ReportFigures) -> Section:
    """Render issued and refused items by hour, day or month."""
    unit, periods = figures.scope.unit, figures.periods
    columns = (unit.capitalize(), "Issued", "Refused")
    rows = [
        (name_cell(period.name), number_cell(period.issued), number_cell(period.refused))
        for period in periods
    ]
    busiest = max(periods, key=lambda period: period.total)
    summary = f"Busiest {unit}: {busiest.name}, {busiest.issued:,} issued"
    charts = (draw_periods(periods, unit, width) for width in (WIDE_CHART, NARROW_CHART))
    return Section(
        "time",
        f"By {unit}",
        f"{summary} and {busiest.refused:,} refused. The first and last may be partial.",
        _PERIODS.format(*charts, render_table(f"By {unit}", columns, rows)),
        render_command(f"audit count --by {unit}", figures.scope, has_zone=True),
    )


def _quota_section(figures: ReportFigures) -> Section:
    """Render how much of each quota is used now, the fullest first."""
    quotas = sorted(figures.quotas, key=lambda quota: (-_used(quota), quota.tenant))
    if not quotas:
        return Section("quotas", _QUOTAS_TITLE, "There are no quotas.", Markup(""))
    full = sum(quota.left == 0 for quota in quotas)
    warning = sum(quota.warns and quota.left != 0 for quota in quotas)
    summary = (
        f"At the time of this report: {len(quotas):,} quota{'s' * (len(quotas) != 1)}, "
        f"{full:,} used up and {warning:,} more above their warning mark."
    )
    if len(quotas) > _TABLE_QUOTAS:
        summary += f" Shown are the {_TABLE_QUOTAS} with the least left."
    chart = draw_ranking([_quota_bar(quota) for quota in quotas[:_CHART_QUOTAS]], _FULL)
    return Section(
        "quotas",
        _QUOTAS_TITLE,
        summary,
        _CHART_AND_TABLE.format(chart, _quota_table(quotas[:_TABLE_QUOTAS])),
        render_command(f"quota show{tenant_option(figures.scope)}"),
    )


def _used(quota: QuotaStatus) -> float:
    return quota.used / quota.limit if quota.limit else 0


def _quota_bar(quota: QuotaStatus) -> Bar:
    share = min(_used(quota) * _FULL, _FULL)
    mark = None
    if quota.warn_at is not None and quota.limit:
        mark = min(quota.warn_at / quota.limit * _FULL, _FULL)
    tenant = _shorten(quota.tenant, _MAX_CHART_TENANT)
    name = f"{tenant}  {quota.metric}.{quota.window}"
    is_full = quota.left == 0
    return Bar(name, f"{quota.percent}%", 0 if is_full else share, share if is_full else 0, mark)


def _quota_table(quotas: list[QuotaStatus]) -> Markup:
    columns = ("Tenant", "Quota", "Used", "Limit", "Left", "Share")
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


def _log_section(figures: ReportFigures) -> Section:
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
    return Section(
        "log",
        "State of the log",
        _describe_checkpoints(figures.scope, log),
        Markup('<dl class="facts">\n{}\n</dl>').format(facts),
        _checkpoint_table(figures.scope, log),
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
    columns = ("Tree", "Signed leaves", "Signed at")
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


_NOTHING = Markup(
    '<p class="nothing" data-figure="nothing">Nothing was issued or refused in this period.</p>'
)
_PRUNED = Markup(
    '<p class="nothing" data-figure="pruned" data-value="{0}">Single items of chunks that were'
    " issued before {0} (UTC) were removed from the log. Object keys and reasons for refusals lack"
    " them; all other figures are complete.</p>"
)
_FIGURE = Markup('<dd class="{css}" data-figure="{id}" data-value="{value}">{value:,}</dd>')
_HEADLINE = Markup("""\
<dl class="headline">
<div><dt>Issued</dt>{issued}<dd>{issued_share}</dd></div>
<div><dt>Refused</dt>{refused}<dd>{refused_share}</dd></div>
<div><dt>{third}</dt>{third_figure}</div>
<div><dt>Newest checkpoint</dt>{checkpoint}</div>
</dl>""")


def render_page(figures: ReportFigures, title: str) -> str:
    """Return the report as HTML."""
    scope = figures.scope
    since, until = format_moment(scope.since, scope), format_moment(scope.until, scope)
    style, script = _read_part("page.css"), _read_part("page.js")
    sections = list(_sections(figures))
    links = Markup("\n").join(
        Markup('<li><a href="#{}">{}</a></li>').format(section.id, section.title)
        for section in sections
    )
    return _read_part("page.html").format(
        policy=_security_policy(style, script),
        title=title,
        style=style,
        script=script,
        period=f"{since} to {until} ({scope.zone})",
        about=_describe_scope(figures),
        headline=_headline(figures),
        nav=Markup('<nav aria-label="Sections"><ul>\n{}\n</ul></nav>').format(links),
        sections=Markup("\n").join(section.render() for section in sections),
        footer=(
            "Made by valetkey from its audit log. The report has no links, signatures or keys "
            "that could open anything. Times are in the time zone of its period."
        ),
    )


def _read_part(name: str) -> Markup:
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return Markup(text)  # noqa: S704 - a file of ours


def _security_policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _received_section(figures: ReportFigures) -> Section:
    """Render who got what: the recipients with the most grants, and their newest ones."""
    rows = [
        (
            name_cell(received.recipient),
            number_cell(received.grants),
            number_cell(received.objects),
            Cell(
                Markup("<br>").join(
                    Markup("{} {}").format(format_moment(time, figures.scope), isolate(key))
                    for time, key in received.newest
                ),
                received.newest[0][0].isoformat(),
            ),
        )
        for received in figures.received
    ]
    return Section(
        "received",
        "Who got what",
        "The recipients with the most grants, and the newest grants of each.",
        render_table("Who got what", ("Recipient", "Grants", "Objects", "Newest"), rows),
    )


def _sections(figures: ReportFigures) -> Iterator[Section]:
    if figures.received:
        yield _received_section(figures)
    if figures.issued or figures.refused:
        yield _time_section(figures)
        yield from _breakdown_sections(figures)
    if figures.states:
        yield _states_section(figures)
    yield _quota_section(figures)
    yield _log_section(figures)


def _describe_scope(figures: ReportFigures) -> Markup:
    scope = figures.scope
    whose = Markup("Tenant {}").format(isolate(scope.tenant)) if scope.tenant else "All tenants"
    bucket = Markup("bucket profile {}").format(isolate(scope.bucket)) if scope.bucket else ""
    made = f"made {format_moment(figures.generated_at, scope)}"
    return Markup(", ").join(part for part in (whose, bucket, made) if part) + "."


def _headline(figures: ReportFigures) -> Markup:
    total = figures.issued + figures.refused
    of_items = f"of {total:,} requested"
    is_own = figures.scope.tenant is not None
    third, groups = ("Requesters", figures.requesters) if is_own else ("Tenants", figures.tenants)
    content = _HEADLINE.format(
        issued=_FIGURE.format(css="issued", id="issued", value=figures.issued),
        issued_share=f"{describe_share(figures.issued, total)} {of_items}",
        refused=_FIGURE.format(css="refused", id="refused", value=figures.refused),
        refused_share=f"{describe_share(figures.refused, total)} {of_items}",
        third=third,
        third_figure=_FIGURE.format(
            css="count", id=third.lower(), value=groups.groups or len(groups.rows)
        ),
        checkpoint=headline_checkpoint(figures.log, figures.scope),
    )
    notes = [_PRUNED.format(figures.pruned_month)] if figures.pruned_month else []
    return Markup("\n").join([content, *notes, *([] if total else [_NOTHING])])
