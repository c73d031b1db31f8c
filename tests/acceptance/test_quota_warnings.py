"""The log lines about a tenant that comes near a limit."""

import json
from typing import Any

from tests.acceptance.conftest import VAULT_KEY, Service
from tests.support.servers.waiting import wait_until


def log_lines(service: Service, event: str) -> list[dict[str, Any]]:
    complete = (line for line in service.logs.splitlines(keepends=True) if line.endswith("\n"))
    records = (json.loads(line) for line in complete if f'"{event}"' in line)
    return [line for line in records if line.get("tenant") == "vault"]


def test_a_soft_limit_is_logged_for_a_batch_but_not_for_a_usage_request(
    service: Service,
) -> None:
    with service.signing_client(VAULT_KEY) as client:
        handle = client.download("demo", "vault/a")
        handle.result(15)
        client.usage(15)
    wait_until(lambda: "told" in {line["status"] for line in log_lines(service, "answered")})
    warnings = [line for line in log_lines(service, "quota_warning") if line["batch"] == handle.id]
    warning = warnings[0]  # there is a second one if the chunk was sent again
    assert (warning["metric"], warning["window"], warning["limit"]) == ("grants", "day", 9_999)
    assert None not in {line["batch"] for line in log_lines(service, "quota_warning")}
