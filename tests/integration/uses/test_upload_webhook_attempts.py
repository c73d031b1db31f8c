"""Webhooks about uploads are sent until the endpoint takes them, or may no longer be told."""

import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from tests.integration.conftest import ApplyConfig
from tests.support.builders.deliveries import lease_delivery
from tests.support.builders.messages import tenant_config
from tests.support.servers.waiting import wait_until
from tests.support.uses.notified import (
    SECRET,
    config_with_hook,
    notified_upload,
)
from tests.support.uses.reports import stored
from tests.support.uses.upload_hooks import UploadHooks
from worker.db.engine import write_transaction
from worker.db.outbox import EVENT_LIFETIME, LEASE_TIME
from worker.usecases.upkeep.cleanup import clean_up

KEY = "acme/a.png"


def test_an_endpoint_that_is_down_gets_the_same_webhook_when_it_is_up_again(
    hooks: UploadHooks,
) -> None:
    (grant_id,) = hooks.issue(notified_upload())
    hooks.status = 503
    hooks.record(stored(grant_id, KEY, hooks.clock()))
    hooks.deliver()
    assert [row.state for row in hooks.pending()] == ["pending"]
    hooks.clock.forward(hours=6)  # the grants have expired long since
    hooks.status = 204
    clean_up(hooks.context)
    hooks.deliver()
    assert [row.state for row in hooks.pending()] == ["delivered"]
    _, first, second = hooks.receiver.bodies
    assert first == second
    _, *ids = hooks.ids()
    assert ids[0] == ids[1]
    assert "." not in ids[0]


def test_a_sender_that_dies_is_replaced_after_its_lease_and_the_webhook_keeps_its_id(
    hooks: UploadHooks,
) -> None:
    (grant_id,) = hooks.issue(notified_upload())
    hooks.record(stored(grant_id, KEY, hooks.clock()))
    with write_transaction(hooks.engine) as connection:  # a sender that is killed before it reports
        assert lease_delivery(connection, "killed", hooks.clock()) is not None
    hooks.deliver()
    assert hooks.events() == []
    hooks.clock.forward(seconds=LEASE_TIME.total_seconds() + 1)
    hooks.deliver()
    assert len(hooks.events()) == 1
    assert [(row.state, row.attempts) for row in hooks.pending()] == [("delivered", 2)]


def test_a_sender_that_is_killed_during_an_attempt_leaves_the_webhook_to_the_next_one(
    hooks: UploadHooks,
) -> None:
    (grant_id,) = hooks.issue(notified_upload())
    hooks.record(stored(grant_id, KEY, hooks.clock()))
    hooks.is_open.clear()  # the endpoint receives the webhook, and does not respond
    url = hooks.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "tests.support.uses.sender", url]
    with subprocess.Popen(command, env={**os.environ, "HOOK": SECRET}) as sender:
        wait_until(lambda: len(hooks.receiver.bodies) > 1, what="the endpoint has the webhook")
        sender.kill()
    hooks.is_open.set()
    assert [row.state for row in hooks.pending()] == ["pending"]
    hooks.clock.time = datetime.now(UTC) + LEASE_TIME + timedelta(seconds=1)
    hooks.deliver()
    assert [row.state for row in hooks.pending()] == ["delivered"]
    (_, *ids), (_, *bodies) = hooks.ids(), hooks.receiver.bodies
    assert (len(ids), len(set(ids)), len(set(bodies))) == (2, 1, 1)


def test_an_endpoint_that_the_policy_no_longer_allows_is_not_told(
    hooks: UploadHooks, apply_config: ApplyConfig
) -> None:
    (grant_id,) = hooks.issue(notified_upload())
    config = config_with_hook(hooks.receiver.port)
    policies = {"demo": replace(config.tenants["acme"].policies["demo"], callbacks=())}
    acme = replace(config.tenants["acme"], policies=policies)
    apply_config(replace(config, tenants={"acme": acme}))
    hooks.record(stored(grant_id, KEY, hooks.clock()))
    hooks.deliver()
    assert hooks.events() == []
    (row,) = hooks.pending()
    assert (row.state, row.problem) == (
        "failed",
        "the tenant's policy no longer allows this endpoint",
    )


def test_an_endpoint_that_is_no_longer_configured_is_not_told(
    hooks: UploadHooks, apply_config: ApplyConfig
) -> None:
    (grant_id,) = hooks.issue(notified_upload())
    hooks.record(stored(grant_id, KEY, hooks.clock()))
    apply_config(tenant_config())
    hooks.deliver()
    assert [row.problem for row in hooks.pending()] == ["the endpoint is no longer configured"]


def test_a_delivery_that_no_attempt_finished_for_a_week_fails(hooks: UploadHooks) -> None:
    (grant_id,) = hooks.issue(notified_upload())
    hooks.record(stored(grant_id, KEY, hooks.clock()))
    hooks.clock.forward(seconds=EVENT_LIFETIME.total_seconds() - 1)
    clean_up(hooks.context)
    assert [row.state for row in hooks.pending()] == ["pending"]
    hooks.clock.forward(seconds=2)
    clean_up(hooks.context)
    (row,) = hooks.pending()
    assert (row.state, row.problem) == ("failed", "the endpoint did not take it within 7 days")
