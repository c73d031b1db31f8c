"""A real Prometheus that scrapes every few seconds, and whose rules have seconds for minutes."""

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.alerts.rules import RULES_FILE, SCRAPE_CONFIG
from tests.support.servers.debian_programs import find_program
from worker.dev.child_processes import HOST, Program, reserved_ports, running


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        alerts = self._get("/api/v1/alerts")["data"]["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}

    def is_quiet(self) -> bool:
        """Return true if no alert fires, the last scrape succeeded, and the probe does."""
        return not self.firing() and self.has_sample(
            "up == 1 and on () valetkey_probe_success == 1"
        )

    def has_sample(self, query: str) -> bool:
        """Return true if a query has a result, false while the server starts."""
        with suppress(OSError):
            return bool(self.query(query))
        return False

    def query(self, query: str) -> list[float]:
        """Return the values of a query's result. Raises OSError while the server starts."""
        values = urllib.parse.urlencode({"query": query})
        result = self._get(f"/api/v1/query?{values}")["data"]["result"]
        return [float(each["value"][1]) for each in result]

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path) as response:  # noqa: S310 - it is local
            return json.load(response)


@contextmanager
def running_prometheus(folder: Path, metrics_url: str) -> Iterator[Prometheus]:
    """Run Prometheus with its data in a folder, with the rules and configuration of deploy/."""
    target = re.sub("^http://|/metrics$", "", metrics_url)
    (job,) = SCRAPE_CONFIG["scrape_configs"]
    times = {"scrape_interval": "3s", "scrape_timeout": "3s"}
    job = {**job, **times, "static_configs": [{"targets": [target]}]}
    config = SCRAPE_CONFIG | {"global": {"evaluation_interval": "1s"}, "scrape_configs": [job]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "rules.yml").write_text(_seconds_for_minutes(RULES_FILE.read_text()))
    with reserved_ports(None) as (port,):
        options = {
            "config.file": folder / "prometheus.yml",
            "storage.tsdb.path": folder / "samples",
            "web.listen-address": f"{HOST}:{port}",
        }
        words = (f"--{name}={value}" for name, value in options.items())
        command = (find_program("prometheus"), *words)
        program = Program("prometheus", command, folder, folder / "logs" / "prometheus.log")
        server = Prometheus(f"http://{HOST}:{port}")
        with running(program, lambda _: server.has_sample("valetkey_database_up")):
            yield server


def _seconds_for_minutes(rules: str) -> str:
    """Shorten the times of rules. A rate needs two scrapes, and workers write every 5 seconds."""
    rules = re.sub(r"offset (\d+)m", r"offset \1s", rules.replace("[5m]", "[20s]"))
    return re.sub(r"for: (\d+)m", lambda match: f"for: {min(int(match[1]), 5)}s", rules)
