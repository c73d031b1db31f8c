"""The files of deploy/: the rules of Prometheus, and the dashboard of Grafana."""

import json
import re
from typing import Any

import yaml

from tests.support.docs.command_lines import ROOT

RULES_FILE = ROOT / "deploy" / "prometheus" / "rules.yml"
CONFIG_FILE = ROOT / "deploy" / "prometheus" / "prometheus.yml"
DASHBOARD_FILE = ROOT / "deploy" / "grafana" / "valetkey.json"
RULES = [
    rule
    for group in yaml.safe_load(RULES_FILE.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
ALERTS: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in RULES if "alert" in rule}
SCRAPE_CONFIG = yaml.safe_load(CONFIG_FILE.read_text(encoding="utf-8"))
_NAME = re.compile(r"valetkey_[a-z_]+")
_SUFFIX = re.compile("_(total|bucket|sum|count)$")


def metric_names(text: str) -> set[str]:
    """Return the names of the families of metrics in a text."""
    return {_SUFFIX.sub("", name) for name in _NAME.findall(text)}


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD_FILE.read_text(encoding="utf-8"))
    return loaded


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard that have queries."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
