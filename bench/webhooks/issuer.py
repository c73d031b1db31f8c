"""Issues grants with webhooks, in a process of its own, as an issuing worker does.

Each line of stdin asks for a number of requests, in turns of endpoints, at a rate. The process
writes the webhook-id of each, its endpoint, and the time at which its commit began. It triggers
deliveries as the service does. The environment has the service's settings.
"""

import json
import sys
import time
from collections.abc import Sequence

from sqlalchemy import event

from tests.support.builders.messages import grant_message
from worker.app import job_context, send_trigger
from worker.issue.dispatch import respond
from worker.uses.rate_limits import Pace

_DELIVER = "valetkey.deliver"
_commits: list[float] = []


def _issue(tenant: str, endpoint: str) -> tuple[str, str, float]:
    message = grant_message(tenant=tenant, callback=endpoint)
    response = respond(message, job_context())
    if response.values["status"] != "issued":
        raise RuntimeError("a request was refused")
    return f"{message['batch']}-0", endpoint, _commits[-1]


def _issue_many(
    endpoints: Sequence[tuple[str, str]], count: int, rate: float | None
) -> list[tuple[str, str, float]]:
    pace = Pace(rate or 1e9, time.sleep)
    issued = []
    for number in range(count):
        pace.wait()
        issued.append(_issue(*endpoints[number % len(endpoints)]))
        if rate is not None:
            send_trigger(_DELIVER)
    if rate is None:
        send_trigger(_DELIVER)
    return issued


def main() -> None:
    """Issue what each line of stdin asks for."""
    event.listen(job_context().engine, "commit", lambda _: _commits.append(time.monotonic()))
    for line in sys.stdin:
        print(json.dumps(_issue_many(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
