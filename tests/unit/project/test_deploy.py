"""The files of deploy/: alerts, their runbooks, and the dashboard."""

import re
from pathlib import Path

import pytest

from tests.support.alerts.rules import ALERTS, RULES, SCRAPE_CONFIG, dashboard, panels
from tests.support.docs.command_lines import ROOT

RUNBOOKS = ROOT / "docs" / "runbooks"


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_a_severity_and_a_runbook_that_names_it(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"] in ({"severity": "page"}, {"severity": "ticket"})
    assert rule["annotations"].keys() == {"summary", "runbook"}
    assert alert in (ROOT / rule["annotations"]["runbook"]).read_text(encoding="utf-8")


def test_an_alert_fires_if_nothing_is_scraped() -> None:
    (job,) = SCRAPE_CONFIG["scrape_configs"]
    assert any(f'up{{job="{job["job_name"]}"}} == 0' in rule["expr"] for rule in ALERTS.values())


def test_the_runbooks_name_every_alert_and_no_other() -> None:
    pages = [page.read_text(encoding="utf-8") for page in RUNBOOKS.glob("*.md")]
    assert set(re.findall(r"`(Valetkey\w+)`", "".join(pages))) == ALERTS.keys()


@pytest.mark.parametrize("page", sorted(RUNBOOKS.glob("*.md")), ids=lambda page: page.stem)
def test_a_runbook_fits_on_one_screen(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 55


def test_the_guide_names_paths_that_exist() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    paths = {path.rstrip("*.") for path in re.findall(r"\bdeploy/[\w./*-]+", page)}
    assert len(paths) >= 5
    assert not [path for path in paths if not [*ROOT.glob(f"{path}*")]]


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in dashboard()["panels"]
        for place in (panel["gridPos"],)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert {x for x, _ in cells} == set(range(24))


def test_each_query_of_the_dashboard_goes_to_the_chosen_data_source() -> None:
    sources = [target["datasource"] for panel in panels() for target in panel["targets"]]
    assert sources
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


def test_the_recorded_series_that_are_used_are_recorded() -> None:
    queries = [target["expr"] for panel in panels() for target in panel["targets"]]
    queries += [rule["expr"] for rule in ALERTS.values()]
    used = set(re.findall(r"valetkey:[a-z0-9_:]+", " ".join(queries)))
    assert used == {rule["record"] for rule in RULES if "record" in rule}
