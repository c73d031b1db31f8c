"""docs/operating.md documents all metrics, and its rules for alerts use metrics that exist."""

import re

import pytest
import yaml

from tests.integration.commands.metrics.conftest import Scrape
from tests.support.docs.command_lines import ROOT

PAGE = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## Metrics\n")[2].partition("\n## ")[0]
SCRAPE_CONFIG, RULE_FILE = (
    yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", SECTION, re.DOTALL)
)
RULES = [rule for group in RULE_FILE["groups"] for rule in group["rules"]]
NAME = re.compile(r"valetkey_[a-z_]+")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


def names(text: str) -> set[str]:
    return {name.removesuffix("_total") for name in NAME.findall(text)}


def test_the_table_has_all_metrics(scrape: Scrape) -> None:
    rows = [line.split("|")[1] for line in SECTION.splitlines() if line.startswith("| `")]
    assert names(" ".join(rows)) == set(scrape())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_uses_metrics_that_exist(scrape: Scrape, rule: dict[str, str]) -> None:
    assert names(rule["expr"]) <= set(scrape())
    assert set(rule) == {"alert", "expr", "for", "annotations"}


def test_a_rule_fires_if_nothing_is_scraped() -> None:
    (job,) = SCRAPE_CONFIG["scrape_configs"]
    assert any(f'up{{job="{job["job_name"]}"}} == 0' in rule["expr"] for rule in RULES)


def test_prometheus_scrapes_the_port_that_compose_publishes() -> None:
    (job,) = SCRAPE_CONFIG["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    service = COMPOSE["services"]["metrics"]
    assert service["ports"] == ["127.0.0.1:${VALETKEY_METRICS_PORT:-9109}:9109"]
    assert service["command"][-1].rpartition(":")[2] == target.rpartition(":")[2] == "9109"
