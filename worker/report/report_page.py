"""The report as one HTML page that loads nothing from elsewhere.

page.html is its template, and page.css and page.js are its parts. Its Content-Security-Policy
allows only these.
"""

import shlex
from base64 import b64encode
from collections import Counter
from datetime import datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from valetkey.cli.terminal_text import escape_unprintable
from valetkey.units import format_amount
from worker.audit.grant_states import GrantState
from worker.contract.contract_command import read_codes
from worker.report.report_charts import Bar, draw_periods, draw_ranking
from worker.report.report_figures import Breakdown, ReportFigures, Scope, Tally
from worker.shared.quota_statuses import QuotaStatus

_FOLDER = Path(__file__).parent
_CHART_ROWS = 8
_MAX_CHART_NAME = 80  # characters; the picture cuts what has no room
_MAX_CHART_TENANT = 20  # characters, so that the quota has room beside it
_FULL = 100  # percent
_SMALL_SHARE, _LARGE_SHARE = 0.1, 99.9  # percent


class Topic(NamedTuple):
    """A breakdown: its texts, the items that it counts, and how the command line names it.

    is_ordered keeps the given order of the groups, such as that of lifetimes. others names the
    items that are in none of the rows, if their groups are not counted.
    """

    id: str
    title: str
    column: str
    noun: str
    counts: Literal["total", "issued", "refused"] = "total"
    is_ordered: bool = False
    by: str = ""
    others: str = "All others"

    @property
    def decisions(self) -> list[str]:
        """The decisions that it counts."""
        return ["issued", "refused"] if self.counts == "total" else [self.counts]


TOPICS = (
    Topic("tenants", "Tenants", "Tenant", "tenant", by="count --by tenant"),
    Topic("buckets", "Buckets", "Bucket profile", "bucket profile", by="count --by bucket"),
    Topic("kinds", "Kinds", "Kind", "kind", by="count --by kind"),
    Topic("codes", "Reasons for refusals", "Code", "code", "refused", by="top codes"),
    Topic("lifetimes", "Lifetimes", "Lifetime", "range", "issued", is_ordered=True),
    Topic("limits", "What limited lifetimes", "Limit", "limit", "issued"),
    Topic("requesters", "Requesters", "Requester", "requester", by="top requesters"),
    Topic(
        *("recipients", "Recipients", "Recipient", "recipient"),
        by="top recipients",
        others="All others, and items for no recipient",
    ),
    Topic("keys", "Object keys", "Object key", "key", by="top keys"),
)


def render_page(figures: ReportFigures, title: str) -> str:
    """Return the report as HTML."""
    scope, states = figures.scope, _sum_states(figures)
    quotas = sorted(figures.quotas, key=lambda quota: (-_used(quota), quota.tenant))
    style, script = ((_FOLDER / name).read_text("utf-8") for name in ("page.css", "page.js"))
    return (
        _environment(scope)
        .get_template("page.html")
        .render(
            title=title,
            style=style,
            script=script,
            policy=(
                f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; "
                "img-src data:; base-uri 'none'; form-action 'none'"
            ),
            figures=figures,
            scope=scope,
            titles=_titles(figures),
            topics=TOPICS,
            meanings={code.code: code.meaning for code in read_codes()},
            states=states,
            quotas=quotas,
            used_up=sum(quota.left == 0 for quota in quotas),
            warning=sum(quota.warns and quota.left != 0 for quota in quotas),
            share=describe_share,
            format_amount=format_amount,
            scope_options=partial(_scope_options, scope),
            tenant_option=f" {shlex.join(['--tenant', scope.tenant])}" if scope.tenant else "",
            draw_periods=partial(draw_periods, figures.periods, scope.unit),
            draw_breakdown=_draw_breakdown,
            draw_states=lambda: draw_ranking([Bar(s, f"{n:,}", n) for s, n in states.items()]),
            draw_quotas=lambda: draw_ranking([_quota_bar(q) for q in quotas[:_CHART_ROWS]], _FULL),
        )
    )


def _environment(scope: Scope) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "commas": "{:,}".format,
        "moment": partial(format_moment, scope=scope),
        "printable": escape_unprintable,
    }
    return environment


def _digest(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _titles(figures: ReportFigures) -> dict[str, str]:
    """Return the titles of the sections that have any figures, by their ids."""
    titles = {"received": "Who got what"} if figures.received else {}
    if figures.issued or figures.refused:
        titles["time"] = f"By {figures.scope.unit}"
        titles |= {topic.id: topic.title for topic in TOPICS if _has_rows(figures, topic)}
    if figures.states:
        titles["states"] = "States of grants"
    return titles | {"quotas": "Quota headroom", "log": "State of the log"}


def _has_rows(figures: ReportFigures, topic: Topic) -> bool:
    """Return whether a topic has rows. A tenant's own report has no other tenants."""
    rows = len(figures.breakdowns[topic.id].rows)
    return rows > 1 if topic.id == "tenants" and figures.scope.tenant else rows > 0


def format_moment(moment: datetime, scope: Scope) -> str:
    """Format a time in the zone of a report, to the second if it has seconds."""
    local = moment.astimezone(scope.zone)
    return f"{local:%Y-%m-%d %H:%M:%S}" if local.second else f"{local:%Y-%m-%d %H:%M}"


def describe_share(number: int, total: int) -> str:
    """Describe a share in percent; a small share is not 0%, and one of nearly all is not 100%."""
    if not number or number == total:
        return "100%" if number else "0%"
    percent = number * 100 / total
    if percent < _SMALL_SHARE:
        return f"<{_SMALL_SHARE}%"
    return f"{percent:.1f}%" if percent <= _LARGE_SHARE else f">{_LARGE_SHARE}%"


def _scope_options(scope: Scope, *, has_zone: bool = False) -> str:
    """Return the options with the range and the filters of a report, after a space.

    has_zone adds the time zone, for figures by hour, day or month.
    """
    options = {
        "--since": scope.since.astimezone(scope.zone).isoformat(),
        "--until": scope.until.astimezone(scope.zone).isoformat(),
        "--tz": str(scope.zone) if has_zone else None,
        "--tenant": scope.tenant,
        "--bucket": scope.bucket,
    }
    words = [word for name, value in options.items() if value for word in (name, value)]
    return f" {shlex.join(words)}"


def _draw_breakdown(topic: Topic, groups: Breakdown) -> str:
    # A bar of all others would be so long that it hid the differences between the shown ones.
    shown = groups.rows if topic.is_ordered else groups.rows[:_CHART_ROWS]
    return draw_ranking([_bar(topic, tally) for tally in shown])


def _bar(topic: Topic, tally: Tally) -> Bar:
    sizes = {name: getattr(tally, name) for name in topic.decisions}
    name = _shorten(escape_unprintable(tally.name), _MAX_CHART_NAME)
    return Bar(name, f"{sum(sizes.values()):,}", **sizes)


def _shorten(name: str, size: int) -> str:
    return name if len(name) <= size else f"{name[: size - 1]}…"


def _sum_states(figures: ReportFigures) -> Counter[str]:
    """Count the grants by state, without states that none has."""
    totals: Counter[str] = Counter()
    for numbers in figures.states.values():
        totals.update(numbers)
    return Counter({state: totals[state] for state in get_args(GrantState) if totals[state]})


def _used(quota: QuotaStatus) -> float:
    return quota.used / quota.limit if quota.limit else 0


def _quota_bar(quota: QuotaStatus) -> Bar:
    share = min(_used(quota) * _FULL, _FULL)
    mark = None
    if quota.warn_at is not None and quota.limit:
        mark = min(quota.warn_at / quota.limit * _FULL, _FULL)
    name = f"{_shorten(quota.tenant, _MAX_CHART_TENANT)}  {quota.metric}.{quota.window}"
    is_full = quota.left == 0
    return Bar(name, f"{quota.percent}%", 0 if is_full else share, share if is_full else 0, mark)
