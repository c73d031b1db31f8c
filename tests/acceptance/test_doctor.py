"""`python -m worker doctor` with the real service."""

import json
import re
from typing import Any

from tests.acceptance.conftest import ROOT, SECRET, Service
from tests.support.servers.programs import run_worker
from tests.support.servers.waiting import wait_until


def run_doctor(service: Service) -> list[dict[str, Any]]:
    """Return the checks; none if a busy worker did not respond within a second."""
    environ = {**service.stack.environ, "TEST_HOOK_SECRET": SECRET}
    completed = run_worker("doctor", "--json", cwd=ROOT, env=environ)
    assert (completed.returncode, completed.stderr) == (0, "")
    checks = [json.loads(line) for line in completed.stdout.splitlines()]
    is_silent = any(check["message"].startswith("no worker responded") for check in checks)
    return [] if is_silent else checks


def test_a_running_service_has_no_problems_except_tenants_that_trust_the_queue(
    service: Service,
) -> None:
    checks = wait_until(lambda: run_doctor(service), what="all workers respond")
    assert {check["check"] for check in checks} == {
        *("settings", "database", "tenants", "buckets", "endpoints", "webhooks", "upkeep"),
        *("manifests", "uploads", "settlements", "audit", "results", "broker", "workers"),
        *("messages", "queues", "config", "permissions", "probe"),
    }
    workers = [check["message"].split()[0] for check in checks if check["check"] == "workers"]
    assert workers == ["valetkey", "valetkey.bulk", "valetkey.upkeep"]
    problems = [check["message"] for check in checks if check["state"] != "ok"]
    assert problems
    assert all(re.search('trusts the queue|trust = "queue"', message) for message in problems)
