"""`python -m worker doctor` beside the real service."""

import json
import subprocess
import sys
from typing import Any

from tests.acceptance.conftest import ROOT, SECRET, Service
from tests.support.servers.waiting import wait_until


def looked(service: Service) -> list[dict[str, Any]]:
    """What it finds; nothing where a busy worker did not say within a second that it is there."""
    done = subprocess.run(
        [sys.executable, "-m", "worker", "doctor", "--json"],
        cwd=ROOT,
        env={**service.up.environ, "TEST_HOOK_SECRET": SECRET},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    checks = [json.loads(line) for line in done.stdout.splitlines()]
    late = [check for check in checks if check["message"].startswith("no worker answers")]
    return [] if late else checks


def test_a_service_that_runs_is_well_but_for_tenants_that_trust_the_queue(service: Service) -> None:
    checks = wait_until(lambda: looked(service), what="all workers say that they are there")
    assert {check["check"] for check in checks} == {
        *("settings", "database", "tenants", "buckets", "endpoints", "webhooks", "upkeep"),
        *("results", "broker", "workers"),
    }
    workers = [check["message"].split()[0] for check in checks if check["check"] == "workers"]
    assert workers == ["valetkey", "valetkey.bulk", "valetkey.upkeep"]
    unwell = [check["message"] for check in checks if check["state"] != "ok"]
    assert unwell
    assert all("trusts the queue" in message for message in unwell)
