"""The endpoint of a request is told of its unused slots when they are settled."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from models import Delivery
from tests.integration.conftest import ApplyConfig
from tests.integration.uses.probes.conftest import config
from tests.support.builders.services import InProcessService
from tests.support.uses.charges import rows
from tests.support.uses.notified import notified_upload
from tests.support.uses.uploading import Uploader
from valetkey.wire.replies import Grant
from worker.core.tenants.config import WebhookEndpoint

Settle = Callable[[], dict[str, int]]
HOOK = WebhookEndpoint("hook", "https://hook.example.com/", "env:HOOK")


@pytest.fixture
def triggers(service: InProcessService, apply_config: ApplyConfig) -> list[str]:
    """The triggers of deliveries; the tenant has an endpoint."""
    apply_config(config(endpoints={"hook": HOOK}))
    triggers: list[str] = []
    service.context = replace(
        service.context, trigger_deliveries=lambda: triggers.append("deliveries")
    )
    return triggers


def test_the_unused_slots_of_a_chunk_are_told_once_it_is_settled(
    engine: Engine,
    service: InProcessService,
    uploader: Uploader,
    settle: Settle,
    triggers: list[str],
) -> None:
    outcome = service.issue(notified_upload(["acme/a", "acme/b"], notify=["upload.unused"]))
    uploader.store(Grant(**outcome["items"][0]), b"123")
    assert settle() == {"settled": 1}
    deliveries = rows(engine, Delivery.event, Delivery.chunk_number, Delivery.state)
    # The outcome expired with its grants, and the webhook does not.
    assert set(deliveries) == {(None, 0, "failed"), ("upload.unused", 0, "pending")}
    assert triggers == ["deliveries"]


def test_a_chunk_without_unused_slots_is_not_told(
    engine: Engine,
    service: InProcessService,
    uploader: Uploader,
    settle: Settle,
    triggers: list[str],
) -> None:
    outcome = service.issue(notified_upload(["acme/a"], notify=["upload.unused"]))
    uploader.store(Grant(**outcome["items"][0]), b"123")
    assert settle() == {"settled": 1}
    assert rows(engine, Delivery.event) == [(None,)]  # the outcome
    assert triggers == []
