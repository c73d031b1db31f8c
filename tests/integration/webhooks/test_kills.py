"""kill -9 at each step of a delivery: nothing is lost, and what comes twice has the same id."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from models import Delivery
from tests.integration.conftest import Copies
from tests.support.builders.messages import Clock, grant_message, tenant_config
from tests.support.builders.services import InProcessService, build_service
from tests.support.servers.databases import open_engine
from tests.support.servers.webhook_receiver import WebhookReceiver, respond_with, running_receiver
from tests.support.webhooks.killed_delivery import marked_context
from worker.rules.tenant_config import WebhookEndpoint
from worker.webhooks.outbox import DELIVERY_LEASE_TIME
from worker.webhooks.webhook_delivery import deliver_due

# Dozens of processes, one after the other.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

BATCHES = 2
STEPS = 100


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with running_receiver(respond_with(204)) as receiver:
        yield receiver


def issue_batches(service: InProcessService, port: int) -> set[str]:
    """Issue batches with webhooks for a port, and return the ids of the webhooks."""
    url = f"http://127.0.0.1:{port}/"
    service.apply(tenant_config(endpoints={"hook": WebhookEndpoint("hook", url, "env:HOOK")}))
    batches = [service.issue(grant_message(callback="hook"))["batch"] for _ in range(BATCHES)]
    return {f"{batch}-{suffix}" for batch in batches for suffix in ("0", "completed")}


def received(receiver: WebhookReceiver, mark: str) -> Counter[str]:
    """Count the webhooks by id that were sent with a mark."""
    pairs = zip(receiver.paths, receiver.headers, strict=True)
    return Counter(headers["webhook-id"] for path, headers in pairs if path == f"/{mark}")


def test_a_process_that_is_killed_at_any_step_leaves_the_rest_to_the_next(
    service: InProcessService, clock: Clock, copies: Copies, receiver: WebhookReceiver
) -> None:
    ids = issue_batches(service, receiver.port)
    # A database of PostgreSQL takes longer to copy: every fifth step there.
    stride = 1 if service.engine.dialect.name == "sqlite" else 5
    urls = copies(STEPS // stride)
    module = "tests.support.webhooks.killed_delivery"
    command = (sys.executable, "-m", module, clock().isoformat(), str(stride), *urls)
    killed = int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    assert killed > len(urls) * 3 / 4
    clock.time += DELIVERY_LEASE_TIME
    for index, url in enumerate(urls):
        with open_engine(url) as engine:
            copy = build_service(engine, service.context.s3, clock)
            copy.context = marked_context(copy.context, str(index), lambda: None)
            deliver_due(copy.context)
            assert set(copy.rows(Delivery.state)) == {("delivered",)}
        times = received(receiver, str(index))
        assert times.keys() == ids
        assert max(times.values()) <= 2
