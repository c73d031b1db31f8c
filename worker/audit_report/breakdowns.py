"""Sections of the report that divide the items into groups: by tenant, kind, reason and so on."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from markupsafe import Markup

from valetkey.cli.printable import escape_unprintable
from worker.audit_report.charts import Bar, draw_ranking
from worker.audit_report.commands import render_command
from worker.audit_report.figures import Breakdown, ReportFigures, Tally
from worker.audit_report.tables import (
    Cell,
    Column,
    Row,
    describe_share,
    isolate,
    name_cell,
    number_cell,
    render_table,
    share_cell,
    text_cell,
)
from worker.core.contract.codes import read_codes

CHART_ROWS = 8
_SHORT_ROWS = 15  # sections with so few rows are printed on one page
_SHORT = Markup(' class="short"')
_MAX_CHART_NAME = 80  # characters; the picture cuts what has no room
_PAIR = Markup("""\
<section id="{id}"{css} aria-labelledby="{id}-title">
<h2 id="{id}-title">{title}</h2>
<p class="summary">{summary}</p>
<div class="pair">
<figure>{key}{chart}</figure>
{table}
</div>
{command}
</section>""")
_KEY = Markup(
    '<p class="key" aria-hidden="true"><span class="issued">Issued</span>'
    '<span class="refused">Refused</span></p>'
)


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


def breakdown_sections(figures: ReportFigures) -> Iterator[tuple[Topic, Markup]]:
    """Yield the sections that have any figures. A tenant's own report has no other tenants."""
    for topic in TOPICS:
        breakdown: Breakdown = getattr(figures, topic.id)
        if breakdown.rows and not (topic.id == "tenants" and _is_of_one_tenant(figures)):
            yield topic, _render(figures, topic, breakdown)


def _is_of_one_tenant(figures: ReportFigures) -> bool:
    return figures.scope.tenant is not None and len(figures.tenants.rows) < 2  # noqa: PLR2004


def _render(figures: ReportFigures, topic: Topic, breakdown: Breakdown) -> Markup:
    size = _sizer(topic)
    total = sum(map(size, _all_tallies(breakdown)))
    return _PAIR.format(
        id=topic.id,
        css=_SHORT if len(breakdown.rows) <= _SHORT_ROWS else "",
        title=topic.title,
        summary=_summarize(topic, breakdown, size, total),
        key=_KEY if topic.issued and topic.refused else "",
        chart=_draw(topic, breakdown, size),
        table=_tabulate(topic, breakdown, size, total),
        command=render_command(f"audit {topic.by}", figures.scope) if topic.by else "",
    )


def _sizer(topic: Topic) -> Callable[[Tally], int]:
    """Return the function that counts the items of a tally that a topic is about."""
    return lambda tally: tally.issued * topic.issued + tally.refused * topic.refused


def _all_tallies(breakdown: Breakdown) -> Sequence[Tally]:
    return [*breakdown.rows, *([breakdown.others] if breakdown.others else [])]


def _summarize(
    topic: Topic, breakdown: Breakdown, size: Callable[[Tally], int], total: int
) -> Markup:
    items = {(True, True): "items", (True, False): "grants", (False, True): "refusals"}
    noun = items[topic.issued, topic.refused]
    largest = max(breakdown.rows, key=size)
    share = Markup("{}: {} of the {}.").format(
        isolate(largest.name), describe_share(size(largest), total), noun
    )
    if breakdown.groups is None:
        return Markup("The {} largest. First {}").format(len(breakdown.rows), share)
    if breakdown.groups == 1:
        return Markup("One {}, {}").format(topic.noun, share)
    if topic.is_ordered:
        return Markup("Most common is {}").format(share)
    return Markup("{:,} {}s. Largest is {}").format(breakdown.groups, topic.noun, share)


def _draw(topic: Topic, breakdown: Breakdown, size: Callable[[Tally], int]) -> Markup:
    # A bar of all others would be so long that it hid the differences between the shown ones.
    shown = breakdown.rows if topic.is_ordered else breakdown.rows[:CHART_ROWS]
    return draw_ranking([_bar(topic, tally, size) for tally in shown])


def _bar(topic: Topic, tally: Tally, size: Callable[[Tally], int]) -> Bar:
    return Bar(
        _shorten(escape_unprintable(tally.name)),
        f"{size(tally):,}",
        tally.issued if topic.issued else 0,
        tally.refused if topic.refused else 0,
    )


def _shorten(name: str) -> str:
    return name if len(name) <= _MAX_CHART_NAME else f"{name[: _MAX_CHART_NAME - 1]}…"


def _tabulate(
    topic: Topic, breakdown: Breakdown, size: Callable[[Tally], int], total: int
) -> Markup:
    columns = [Column(topic.column)]
    columns += [Column("Issued", is_number=True)] if topic.issued else []
    columns += [Column("Refused", is_number=True)] if topic.refused else []
    columns += [Column("Share", is_number=True)]
    meanings = {code.code: code.meaning for code in read_codes()} if topic.id == "codes" else None
    if meanings is not None:
        columns.append(Column("Meaning"))

    def row(name: Cell, tally: Tally) -> Row:
        cells = [name]
        cells += [number_cell(tally.issued)] if topic.issued else []
        cells += [number_cell(tally.refused)] if topic.refused else []
        cells += [share_cell(size(tally), total)]
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
