"""What an operator reads in the service's log of a tenant that comes near a limit."""

import json
from typing import Any

from tests.acceptance.conftest import VAULT, Service
from tests.support.servers.waiting import wait_until


def lines(service: Service, event: str) -> list[dict[str, Any]]:
    whole = (line for line in service.written.splitlines(keepends=True) if line.endswith("\n"))
    found = (json.loads(line) for line in whole if f'"{event}"' in line)
    return [line for line in found if line.get("tenant") == "vault"]


def test_a_soft_limit_is_warned_of_by_tenant_and_batch_and_not_where_it_is_only_told(
    service: Service,
) -> None:
    with service.signing_client(VAULT) as client:
        handle = client.download("demo", "vault/a")
        handle.result(15)
        client.usage(15)
    wait_until(lambda: "told" in {line["status"] for line in lines(service, "answered")})
    warnings = [line for line in lines(service, "quota_warning") if line["batch"] == handle.id]
    warning = warnings[0]  # there is another where the chunk was sent again
    assert (warning["metric"], warning["window"], warning["limit"]) == ("grants", "day", 9_999)
    assert None not in {line["batch"] for line in lines(service, "quota_warning")}
