"""The report as one HTML page that loads nothing from elsewhere.

page.html, page.css and page.js are its parts. Its Content-Security-Policy allows only these.
"""

from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from importlib.resources import files

from markupsafe import Markup

from worker.audit_report.breakdowns import breakdown_sections
from worker.audit_report.figures import ReportFigures
from worker.audit_report.sections import (
    format_moment,
    headline_checkpoint,
    log_section,
    quota_section,
    time_section,
)
from worker.audit_report.states import states_section
from worker.audit_report.tables import describe_share, isolate

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
    style, script = _read("page.css"), _read("page.js")
    sections = list(_sections(figures))
    links = Markup("\n").join(
        Markup('<li><a href="#{}">{}</a></li>').format(id_, name) for id_, name, _ in sections
    )
    return _read("page.html").format(
        policy=_security_policy(style, script),
        title=title,
        style=style,
        script=script,
        period=_describe_period(figures),
        about=_describe_scope(figures),
        headline=_headline(figures),
        nav=Markup('<nav aria-label="Sections"><ul>\n{}\n</ul></nav>').format(links),
        sections=Markup("\n").join(section for *_, section in sections),
        footer=(
            "Made by valetkey from its audit log. The report has no links, signatures or keys "
            "that could open anything. Times are in the time zone of its period."
        ),
    )


def _read(name: str) -> Markup:
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return Markup(text)  # noqa: S704 - a file of ours


def _security_policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _sections(figures: ReportFigures) -> Iterator[tuple[str, str, Markup]]:
    """Yield the id, the name and the HTML of each section."""
    if figures.issued or figures.refused:
        yield "time", f"By {figures.scope.unit}", time_section(figures)
        for topic, section in breakdown_sections(figures):
            yield topic.id, topic.title, section
    if figures.states:
        yield "states", "What became of grants", states_section(figures)
    yield "quotas", "Quota headroom", quota_section(figures)
    yield "log", "State of the log", log_section(figures)


def _describe_period(figures: ReportFigures) -> str:
    scope = figures.scope
    since, until = format_moment(scope.since, scope), format_moment(scope.until, scope)
    return f"{since} to {until} ({scope.zone_name})"


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
