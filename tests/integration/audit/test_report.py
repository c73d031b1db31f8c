import re
import shlex
import stat
from collections.abc import Iterator
from functools import partial
from html import unescape
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.support.audit_model.report_log import SINCE, UNTIL, build_log
from tests.support.cli.operator import ON_SQLITE, Run, json_rows, run_audit
from worker.base.database_engine import write_transaction
from worker.ledger.tenant_rows import store_config
from worker.rules.tenant_config import Tenant, TenantConfig

RANGE = ("--since", SINCE.isoformat(), "--until", UNTIL.isoformat())


@pytest.fixture
def run(engine: Engine) -> Run:
    with write_transaction(engine) as connection:
        config = TenantConfig(tenants={name: Tenant(name) for name in ("acme", "globex")})
        store_config(connection, TenantConfig(), config, SINCE)
        build_log(30).write(connection)
    return partial(run_audit, "report")


def test_a_report_is_a_complete_file_that_only_its_owner_may_read(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    result = run(*RANGE, "--out", str(path))
    assert (result.exit_code, result.stdout) == (0, "")
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.glob(".*")) == []


def test_an_existing_file_is_replaced_only_if_that_is_asked_for(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("precious")
    result = run(*RANGE, "--out", str(path))
    assert (result.exit_code, path.read_text()) == (2, "precious")
    assert "--force" in result.output
    assert run(*RANGE, "--out", str(path), "--force").exit_code == 0
    assert path.read_text().startswith("<!doctype html>")


def test_a_file_written_meanwhile_is_not_replaced(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"

    def render(*_: object) -> str:
        path.write_text("precious")
        return "page"

    monkeypatch.setattr("worker.report.report_command.render_page", render)
    result = run(*RANGE, "--out", str(path))
    assert (result.exit_code, path.read_text()) == (2, "precious")
    assert [file.name for file in tmp_path.glob("*.html")] == ["report.html"]


def test_a_report_can_be_printed(run: Run) -> None:
    result = run(*RANGE, "--out", "-", "--title", "Q4 <draft>")
    assert result.exit_code == 0
    assert "<h1>Q4 &lt;draft&gt;</h1>" in result.stdout
    assert result.stdout.endswith("</html>\n")


@ON_SQLITE
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--since", "2026-11-24", "--until", "2026-11-23"), "before it begins"),
        (("--since", "2026-11-24", "--until", "2026-11-24"), "before it begins"),
        (("--since", "1700-01-01"), "longer than 20 years"),
        (("--tenant", "acmee"), "did you mean 'acme'"),
        (("--bucket", "report"), "no bucket profile or bucket 'report'"),
        (("--tz", "Europe/Berlni"), "Europe/Berlin"),
        (("--title", "x" * 201), "at most 200 characters"),
        (("--title", "\udcff"), "not UTF-8"),
        (("--tenant", "\udcff"), "not UTF-8"),
        (("--bucket", "\udcff"), "not UTF-8"),
        (("--out", ""), "no name"),
        (("--out", "/dev/null"), "not a regular file"),
        (("--out", "/no/such/folder/report.html"), "no folder"),
    ],
)
def test_bad_input_is_refused_and_named(
    run: Run, tmp_path: Path, words: tuple[str, ...], text: str
) -> None:
    result = run("--out", str(tmp_path / "report.html"), *words)
    assert result.exit_code == 2
    assert text in result.output
    assert list(tmp_path.glob("*.html")) == []


def test_a_tenants_report_has_nothing_about_other_tenants(run: Run) -> None:
    page = run(*RANGE, "--tenant", "acme", "--out", "-").stdout
    assert [name for name in ("acme", "globex", "initech") if name in page] == ["acme"]


def test_the_commands_on_the_page_print_the_same_figures(run: Run) -> None:
    page = run(*RANGE, "--tz", "Europe/Berlin", "--out", "-").stdout
    sections = re.findall(r"<section id=.*?</section>", page, re.DOTALL)
    commands = [
        (section, unescape(command))
        for section in sections
        for command in re.findall("<code>python -m worker audit (.*?)</code>", section)
    ]
    assert (len(sections), len(commands)) == (14, 9)
    for section, command in commands:
        shown = shown_states if 'id="states"' in section else shown_rows
        assert shown(section) == printed_rows(command)


def shown_rows(section: str) -> dict[str, list[int]]:
    """Return the issued and refused items of each row with any; 0 for a column that is missing."""
    rows = {
        name: [int(row.get(head, 0)) for head in ("Issued", "Refused")]
        for name, row in shown_cells(section)
    }
    return {name: numbers for name, numbers in rows.items() if any(numbers)}


def shown_cells(section: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the name of each row of a table, and its other cells by the head of their column."""
    heads = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', section)
    for row in re.findall(r'<tr><th scope="row".*?</tr>', section):
        name, *values = map(unescape, re.findall('data-value="(.*?)"', row))
        yield name, dict(zip(heads[1:], values, strict=True))


def shown_states(section: str) -> dict[str, list[int]]:
    """Return the items of each kind and state with any, which are all issued."""
    rows = shown_cells(section.partition("<tfoot>")[0])
    cells = {f"{kind} {state}": number for kind, row in rows for state, number in row.items()}
    return {name: [int(number), 0] for name, number in cells.items() if int(number)}


def printed_rows(command: str) -> dict[str, list[int]]:
    rows = json_rows(run_audit(*shlex.split(command), "--json"))
    if "state" in command:
        return {f"{row['kind']} {row['state'].capitalize()}": [row["issued"], 0] for row in rows}
    names = (next(iter(row.values())) or "All others, and items for no recipient" for row in rows)
    return {name: [row["issued"], row["refused"]] for name, row in zip(names, rows, strict=True)}
