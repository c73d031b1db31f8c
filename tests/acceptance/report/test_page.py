"""The page of `audit report`, in a real browser."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.support.audit_model.report_log import LONG, SINCE, UNTIL, LoggedItem, build_log
from tests.support.s3.chromium import Tab
from tests.support.scope import skip_without
from tests.support.servers.databases import migrated_file, open_engine
from tests.support.servers.waiting import wait_until
from worker.base.database_engine import write_transaction
from worker.ledger.tenant_rows import store_config
from worker.report.report_command import report
from worker.rules.tenant_config import Quota, Tenant, TenantConfig

# The folder into which `make browser` installs the package of package-lock.json.
AXE = Path(sys.prefix) / "report" / "node_modules" / "axe-core" / "axe.min.js"
LOG = build_log()
TABLES = """Object.fromEntries([...document.querySelectorAll("section")].map(section => [
  section.id,
  [...section.querySelectorAll("tbody tr")].map(
    row => [...row.cells].map(cell => cell.dataset.value))
]))"""
HEADLINE = """Object.fromEntries([...document.querySelectorAll("[data-figure]")].map(
  figure => [figure.dataset.figure, [figure.dataset.value, figure.innerText]]))"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    url = migrated_file(folder / "valetkey.db")
    quotas = (Quota("grants", "day", 100, 80), Quota("upload_bytes", "month", 10**12))
    tenants = {name: Tenant(name, quotas=quotas) for name in ("acme", "globex")}
    with open_engine(url) as engine, write_transaction(engine) as connection:
        LOG.write(connection)
        store_config(connection, TenantConfig(), TenantConfig(tenants=tenants), SINCE)
    path = folder / "report.html"
    time_range = ("--since", SINCE.isoformat(), "--until", UNTIL.isoformat())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VALETKEY_DATABASE_URL", url)
        result = CliRunner().invoke(report, [*time_range, "--out", str(path)])
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture
def shown(tab: Tab, page: Path) -> Iterator[Tab]:
    tab.resize(1200)
    tab.watch()
    tab.open(page)
    yield tab
    tab.emulate("light")
    tab.resize(1200)
    tab.visit("data:text/html,<p>done")


def test_the_page_requests_nothing_and_reports_no_error(shown: Tab, page: Path) -> None:
    assert shown.requested_urls() == [page.as_uri()]
    assert shown.messages() == []
    assert shown.evaluate("document.querySelectorAll('img, iframe, object').length") == 0


def test_the_page_shows_the_figures_of_the_log(shown: Tab) -> None:
    tables = shown.evaluate(TABLES)
    groups = {
        "time": lambda item: f"{item.time:%F}",
        "tenants": lambda item: item.tenant,
        "buckets": lambda item: item.bucket,
        "kinds": lambda item: item.kind,
        "requesters": lambda item: item.requester,
        "keys": lambda item: item.key,
    }
    for section, group in groups.items():
        rows = {name: [int(issued), int(refused)] for name, issued, refused, *_ in tables[section]}
        rows = {name: numbers for name, numbers in rows.items() if any(numbers)}
        assert rows == LOG.count(group), section
    recipients = {name: [int(n) for n in numbers[:2]] for name, *numbers in tables["recipients"]}
    assert recipients == LOG.count(lambda item: item.recipient)
    assert single_column(tables["codes"], 1) == LOG.count(lambda item: item.code)
    assert single_column(tables["limits"], 0) == LOG.count(limit_of_issued)
    assert tables["quotas"][0][:2] == ["acme", "grants.day"]


def limit_of_issued(item: LoggedItem) -> str | None:
    return None if item.code else item.limited_by


def single_column(rows: list[list[str]], column: int) -> dict[str, list[int]]:
    """Return issued and refused items of a table that has only one of the two columns."""
    return {row[0]: [int(row[1]) * (column == place) for place in (0, 1)] for row in rows}


def test_the_figures_at_the_top_are_those_of_the_log(shown: Tab) -> None:
    items = list(LOG.items())
    refused = sum(item.code is not None for item in items)
    expected = {"issued": len(items) - refused, "refused": refused, "tenants": 3}
    expected["rows"] = sum(len(batch.object_keys) for batch in LOG.batches)
    headline = shown.evaluate(HEADLINE)
    for name, number in expected.items():
        assert headline[name] == [str(number), f"{number:,}"]


def test_each_chart_has_a_table_of_its_figures(shown: Tab) -> None:
    script = """[...document.querySelectorAll("section")].every(section =>
      !section.querySelector("svg") || section.querySelector("table caption"))"""
    assert shown.evaluate("document.querySelectorAll('svg').length") == 13
    assert shown.evaluate(script)


def sorted_column(tab: Tab) -> tuple[str | None, list[int]]:
    heading = "document.querySelector('#tenants th:nth-child(2)')"
    rows = tab.evaluate(TABLES)["tenants"]
    return tab.evaluate(f"{heading}.getAttribute('aria-sort')"), [int(row[1]) for row in rows]


def test_a_table_is_sorted_by_keyboard(shown: Tab) -> None:
    shown.evaluate("document.querySelector('#tenants .rows').focus()")
    for _ in range(2):  # from the table to its first heading, and to the second one
        shown.press("Tab", 9)
    assert shown.evaluate("document.activeElement.textContent") == "Issued"
    shown.press("Enter", 13, "\r")
    order, numbers = sorted_column(shown)
    assert (order, numbers) == ("descending", sorted(numbers, reverse=True))
    shown.press("Enter", 13, "\r")
    order, numbers = sorted_column(shown)
    assert (order, numbers) == ("ascending", sorted(numbers))
    assert shown.evaluate("document.getElementById('said').textContent").startswith("Sorted by")


def test_numbers_are_sorted_as_numbers_and_names_as_names(shown: Tab) -> None:
    shown.evaluate("document.querySelector('#keys th button').click()")
    names = [row[0] for row in shown.evaluate(TABLES)["keys"] if row[0].startswith("acme/")]
    assert names == [f"acme/{number}.pdf" for number in range(40)]


@pytest.mark.parametrize("width", [320, 360, 768, 1200])
def test_the_page_is_never_wider_than_the_screen(shown: Tab, width: int) -> None:
    shown.resize(width)
    assert LONG in shown.evaluate("document.body.textContent")
    script = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    scroll, client = shown.evaluate(script)
    assert scroll <= client


def test_the_page_can_be_read_without_scripts(shown: Tab, page: Path) -> None:
    shown.visit("data:text/html,<p>other")
    shown.set_scripting(enabled=False)
    shown.open(page)
    assert len(shown.evaluate(TABLES)["tenants"]) == 3
    shown.set_scripting(enabled=True)


def test_printed_tables_are_not_cut(shown: Tab) -> None:
    shown._call("Emulation.setEmulatedMedia", media="print")
    script = """[...document.querySelectorAll(".rows")].filter(
      rows => rows.scrollHeight > rows.clientHeight + 1).length"""
    cut = shown.evaluate(script)
    shown._call("Emulation.setEmulatedMedia", media="")
    assert cut == 0


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier(shown: Tab, scheme: str, width: int) -> None:
    if not AXE.exists():
        skip_without("that the report has no barriers", "make browser")
    shown.resize(width)
    shown.emulate(scheme)
    shown.evaluate(AXE.read_text(encoding="utf-8"))
    shown.evaluate("axe.run().then(result => window.axeResult = JSON.stringify(result))")
    result: dict[str, Any] = json.loads(
        wait_until(lambda: shown.evaluate("window.axeResult"), what="axe-core is done")
    )
    assert [(rule["id"], rule["nodes"][0]["html"]) for rule in result["violations"]] == []
    passed = {rule["id"] for rule in result["passes"]}
    assert {"color-contrast", "heading-order", "scrollable-region-focusable"} <= passed
