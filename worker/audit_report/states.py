"""The section of the report about what became of the issued grants."""

from collections import Counter
from typing import get_args

from markupsafe import Markup

from worker.audit_report.charts import Bar, draw_ranking
from worker.audit_report.commands import render_command
from worker.audit_report.figures import KindStates, ReportFigures
from worker.audit_report.tables import (
    Column,
    describe_share,
    name_cell,
    number_cell,
    render_table,
    text_cell,
)
from worker.core.uses.states import GrantState

_SECTION = Markup("""\
<section id="states" class="short" aria-labelledby="states-title">
<h2 id="states-title">What became of grants</h2>
<p class="summary">{summary}</p>
<div class="pair">
<figure>{chart}</figure>
{table}
</div>
{command}
</section>""")


def states_section(figures: ReportFigures) -> Markup:
    """Render the issued grants by kind and by their state at the time of the report."""
    totals: Counter[str] = Counter()
    for kind in figures.states:
        totals.update(kind.states)
    shown = [state for state in get_args(GrantState) if totals[state]]
    return _SECTION.format(
        summary=_summarize(totals),
        chart=draw_ranking([Bar(state, f"{totals[state]:,}", totals[state]) for state in shown]),
        table=_tabulate(figures.states, shown, totals),
        command=render_command("audit count --by kind,state --decision issued", figures.scope),
    )


def _summarize(totals: Counter[str]) -> str:
    known = totals.total() - totals["open"] - totals["unknown"]
    share = describe_share(known, totals.total())
    return (
        f"At the time of this report, it is known what became of {share} of the grants. Unknown are"
        " those that ended, and of which nothing tells a use."
    )


def _tabulate(kinds: tuple[KindStates, ...], shown: list[str], totals: Counter[str]) -> Markup:
    columns = [Column("Kind"), *(Column(state.capitalize(), is_number=True) for state in shown)]
    rows = [
        (name_cell(kind.kind), *(number_cell(kind.states.get(state, 0)) for state in shown))
        for kind in kinds
    ]
    foot = [(text_cell("All kinds"), *(number_cell(totals[state]) for state in shown))]
    return render_table("States of grants by kind", columns, rows, foot if len(kinds) > 1 else ())
