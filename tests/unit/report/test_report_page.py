import re
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from html.parser import HTMLParser
from zoneinfo import ZoneInfo

import click
import pytest

from tests.support.audit_model.report_log import HOSTILE, LONG, RIGHT_TO_LEFT
from worker.report.report_command import TABLE_ROWS, choose_unit, period_names
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
from worker.report.report_page import describe_share, render_page

END = datetime(2026, 11, 24, 8, tzinfo=UTC)
NO_LOG = LogState(rows=0, batches=0, trees=0, leaves=0, unsigned_leaves=0, pending_webhooks=0)
NOTHING = Breakdown((), None, 0)
BREAKDOWNS = (
    *("tenants", "buckets", "kinds", "codes", "lifetimes", "limits"),
    *("requesters", "recipients", "keys"),
)


def breakdown(*names: str) -> Breakdown:
    return Breakdown(tuple(Tally(name, 3, 1) for name in names), None, len(names))


def figures(names: Breakdown, log: LogState = NO_LOG, tenant: str | None = None) -> ReportFigures:
    scope = Scope(since=END - timedelta(days=1), until=END, zone=UTC, unit="day", tenant=tenant)
    issued = sum(row.issued for row in names.rows)
    refused = sum(row.refused for row in names.rows)
    periods = (Tally("2026-11-23", issued, refused), Tally("2026-11-24", 0, 0))
    return ReportFigures(
        scope=scope,
        generated_at=END,
        periods=periods,
        breakdowns=dict.fromkeys(BREAKDOWNS, names),
        received=tuple(Received(row.name, 3, 2, ((END, row.name),) * 2) for row in names.rows),
        quotas=(),
        log=log,
    )


class Elements(HTMLParser):
    """Collects the start tags of a page, with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.mark.parametrize(
    "name", [HOSTILE, '"><script>alert(1)</script>', "{{ policy }}", "&lt;b&gt;"]
)
def test_names_from_the_database_are_never_elements(name: str) -> None:
    plain = Elements(render_page(figures(breakdown("acme", "b")), "Report")).tags
    hostile = Elements(render_page(figures(breakdown(name, "b")), "Report")).tags
    assert [tag for tag, _ in hostile] == [tag for tag, _ in plain]
    assert not [names for _, names in hostile if any(text.startswith("on") for text in names)]


def test_a_title_and_a_tenant_are_escaped() -> None:
    page = render_page(figures(breakdown("acme"), tenant="<b>"), "<i>")
    assert not {"b", "i"} & {tag for tag, _ in Elements(page).tags}
    assert "<title>&lt;i&gt;</title>" in page


def test_control_characters_and_changes_of_direction_are_escaped() -> None:
    page = render_page(figures(breakdown("a\u202egpj.exe", "\x1b[2J\0")), "Report")
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert "a\\u202egpj.exe" in page


def test_the_policy_allows_the_pages_own_style_and_script_alone() -> None:
    page = render_page(figures(breakdown(RIGHT_TO_LEFT, LONG)), "Report")
    policy = next(names["content"] for tag, names in Elements(page).tags if "http-equiv" in names)
    assert policy is not None
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = b64encode(sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert " style=" not in page


def test_a_report_on_nothing_says_so_and_draws_no_empty_chart() -> None:
    page = render_page(figures(NOTHING), "Report")
    assert "Nothing was issued or refused in this period." in page
    assert "<svg" not in page


def test_a_log_without_a_checkpoint_is_said_to_have_none() -> None:
    assert "No checkpoint yet" in render_page(figures(NOTHING), "Report")
    log = replace(NO_LOG, checkpoints=(CheckpointState("acme", 7, END),))
    page = render_page(figures(NOTHING, log), "Report")
    assert "No checkpoint yet" not in page
    assert "2026-11-24 08:00" in page


def test_a_page_says_that_items_of_its_period_were_removed() -> None:
    of_all = figures(breakdown("acme"))
    assert "were removed from the log" not in render_page(of_all, "Report")
    page = render_page(replace(of_all, pruned_month="2026-10"), "Report")
    assert "issued before 2026-10 (UTC) were removed from the log" in page


@pytest.mark.parametrize(("groups", "text"), [(7, ">5 others<"), (None, ">All others<")])
def test_the_foot_of_a_table_sums_up_what_has_no_row(groups: int | None, text: str) -> None:
    rows = breakdown("acme", "globex").rows
    page = render_page(figures(Breakdown(rows, Tally("", 1_234, 5), groups)), "Report")
    assert text in page
    assert ">1,234<" in page


def test_a_page_with_full_tables_has_less_than_half_a_megabyte() -> None:
    names = breakdown(*(f"tenant-{number:03}-{'x' * 40}" for number in range(TABLE_ROWS)))
    page = render_page(figures(names), "Report")
    assert len(page.encode()) < 500_000


@pytest.mark.parametrize(
    ("number", "total", "text"),
    [
        *((0, 0, "0%"), (0, 5, "0%"), (5, 5, "100%"), (1, 3, "33.3%")),
        *((1, 10_000, "<0.1%"), (9_999, 10_000, ">99.9%")),
    ],
)
def test_a_share_is_neither_none_nor_all_if_it_is_only_nearly_so(
    number: int, total: int, text: str
) -> None:
    assert describe_share(number, total) == text


NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("days", "unit"),
    [(1, "hour"), (3, "hour"), (4, "day"), (92, "day"), (94, "month"), (7_000, "month")],
)
def test_the_unit_depends_on_the_length_of_the_range(days: int, unit: PeriodUnit) -> None:
    assert choose_unit(NOON - timedelta(days=days), NOON) == unit


@pytest.mark.parametrize("days", [0, -1, 366 * 20 + 1, 366 * 1_000])
def test_a_range_that_is_empty_or_too_long_is_refused(days: int) -> None:
    with pytest.raises(click.UsageError):
        choose_unit(NOON - timedelta(days=days), NOON)


def names(since: datetime, until: datetime, unit: PeriodUnit) -> list[str]:
    return period_names(Scope(since=since, until=until, zone=BERLIN, unit=unit))


def test_the_hour_that_clocks_show_twice_is_two_periods() -> None:
    since = datetime(2026, 10, 24, 23, tzinfo=UTC)
    assert names(since, since + timedelta(hours=3, microseconds=1), "hour") == [
        "2026-10-25T01:00+02:00",
        "2026-10-25T02:00+02:00",
        "2026-10-25T02:00+01:00",
        "2026-10-25T03:00+01:00",
    ]


def test_days_of_23_and_25_hours_are_one_period_each() -> None:
    for month, day in ((3, 28), (10, 24)):
        since = datetime(2026, month, day, tzinfo=BERLIN)
        until = datetime(2026, month, day + 3, tzinfo=BERLIN)
        assert names(since, until, "day") == [f"2026-{month:02}-{day + n}" for n in range(3)]


def test_the_end_of_a_range_is_not_in_it() -> None:
    since, until = datetime(2026, 1, 1, tzinfo=BERLIN), datetime(2026, 3, 1, tzinfo=BERLIN)
    assert names(since, until, "month") == ["2026-01", "2026-02"]
    assert names(since, until + timedelta(seconds=1), "month") == ["2026-01", "2026-02", "2026-03"]
