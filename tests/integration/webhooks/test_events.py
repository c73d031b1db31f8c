"""The types of webhooks: what is sent when, to which endpoints, and in how many pages."""

from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

import pytest

from models import Delivery
from tests.support.builders.delivery_service import DeliveryService, hooks_config
from tests.support.builders.messages import Clock, download_chunks, grant_message
from valetkey.wire.events import MAX_WEBHOOK_BYTES
from worker.base.database_engine import write_transaction
from worker.issue.cleanup import clean_up
from worker.rules.tenant_config import Quota, TenantConfig
from worker.webhooks import decided_batches, webhook_events
from worker.webhooks.outbox import ManifestWritten, lease_manifest, settle_manifest

LONG_KEYS = [f"acme/{'k' * 900}{number}" for number in range(300)]  # 1.3 KB of URL each


@pytest.fixture
def hooks(webhooks: DeliveryService) -> DeliveryService:
    """Return the service; each endpoint receives every type."""
    webhooks.service.apply(hooks_config(None))
    return webhooks


def sent(hooks: DeliveryService) -> list[dict[str, Any]]:
    """Send what is due, and return everything that was sent."""
    while hooks.deliver() != (0, 0):
        pass
    return [hooks.delivered(number) for number in range(len(hooks.client.bodies))]


def types(hooks: DeliveryService) -> list[str]:
    return [content["type"] for content in sent(hooks)]


def issue_chunks(hooks: DeliveryService, chunks: Sequence[dict[str, Any]]) -> None:
    for chunk in chunks:
        hooks.service.issue(chunk | {"callback": "hook"})


def with_quota(*quotas: Quota, **endpoint: Any) -> TenantConfig:
    config = hooks_config(**endpoint)
    return replace(config, tenants={"acme": replace(config.tenants["acme"], quotas=quotas)})


def test_a_large_outcome_is_sent_in_pages_that_have_each_item_once(hooks: DeliveryService) -> None:
    outcome = hooks.issue(LONG_KEYS)
    pages = sorted((content["data"] for content in sent(hooks)[:-1]), key=itemgetter("page"))
    assert [page["page"] for page in pages] == list(range(1, len(pages) + 1))
    assert {page["pages"] for page in pages} == {len(pages)} != {1}
    assert [item for page in pages for item in page["items"]] == outcome["items"]
    assert max(map(len, hooks.client.bodies)) <= MAX_WEBHOOK_BYTES


def test_each_page_has_an_id_of_its_own(hooks: DeliveryService) -> None:
    batch = hooks.issue(LONG_KEYS)["batch"]
    count = len(sent(hooks)) - 1
    ids = sorted(headers["webhook-id"] for headers in hooks.client.headers)
    expected = [f"{batch}-0-p{page}" for page in range(1, count + 1)]
    assert ids == sorted([*expected, f"{batch}-completed"])


def test_an_outcome_has_no_more_pages_than_items(
    hooks: DeliveryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decided_batches, "_PAGE_BYTES", 10)
    hooks.issue(["acme/a", "acme/b"])
    assert [len(content["data"]["items"]) for content in sent(hooks)[:-1]] == [1, 1]


def test_a_page_that_has_grown_too_large_is_sent_without_its_links(
    hooks: DeliveryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks.issue(["acme/a", "acme/b"])
    monkeypatch.setattr(webhook_events, "MAX_WEBHOOK_BYTES", 800)
    data = sent(hooks)[0]["data"]
    assert (data["thin"], data["issued"], data.get("items")) == (True, 2, None)


def test_a_thin_endpoint_receives_counts_and_no_links(hooks: DeliveryService) -> None:
    hooks.service.apply(hooks_config(None, thin=True))
    hooks.issue(["acme/a", "acme/../b"])
    data = sent(hooks)[0]["data"]
    assert (data["issued"], data["refused"], data["thin"]) == (1, 1, True)
    assert all(b"X-Amz-" not in body for body in hooks.client.bodies)


def test_an_endpoint_receives_only_the_types_that_it_names(hooks: DeliveryService) -> None:
    for events in (("grants.decided",), ("batch.completed",)):
        hooks.service.apply(hooks_config(events))
        hooks.issue()
    assert types(hooks) == ["batch.completed"]  # the first one is no longer wanted
    (unwanted, _) = hooks.rows()
    assert unwanted.problem == "the endpoint no longer receives webhooks of this type"


def test_a_batch_is_completed_once_after_all_its_outcomes(hooks: DeliveryService) -> None:
    chunks = download_chunks(items=5, size=2)
    for chunk in (*chunks, chunks[0], chunks[-1]):
        issue_chunks(hooks, [chunk])
        sent(hooks)
    assert types(hooks) == ["grants.decided"] * 3 + ["batch.completed"]
    data = hooks.delivered(-1)["data"]
    counts = {"total": 5, "chunks": 3, "issued": 5, "refused": 0, "undecided": 0}
    assert counts.items() <= data.items()
    assert "manifest" not in data


def test_a_batch_is_completed_if_its_last_outcome_cannot_be_delivered(
    hooks: DeliveryService,
) -> None:
    hooks.client.statuses["acme.hook"] = 410  # which also disables the endpoint
    hooks.issue()
    hooks.deliver()
    states = [(row.event, row.state) for row in hooks.rows() if row.endpoint == "hook"]
    assert states == [("grants.decided", "failed"), ("batch.completed", "pending")]


def test_a_batch_is_completed_once_its_undelivered_outcome_expires(
    hooks: DeliveryService, clock: Clock
) -> None:
    hooks.issue()
    clock.forward(minutes=6)
    clean_up(hooks.context)
    assert types(hooks) == ["batch.completed"]


def test_a_batch_whose_rest_never_arrives_is_completed_when_it_closes(
    hooks: DeliveryService, clock: Clock
) -> None:
    issue_chunks(hooks, download_chunks(items=5, size=2)[:1])
    assert types(hooks) == ["grants.decided"]
    clock.forward(days=1)
    clean_up(hooks.context)
    assert types(hooks) == ["grants.decided", "batch.completed"]
    assert hooks.delivered(-1)["data"]["undecided"] == 3


def test_a_cancelled_batch_is_completed_and_says_so(hooks: DeliveryService) -> None:
    (chunk, *_) = download_chunks(items=5, size=2)
    issue_chunks(hooks, [chunk])
    hooks.service.cancel(chunk["batch"])
    assert types(hooks) == ["grants.decided", "batch.completed"]
    assert hooks.delivered(-1)["data"]["cancelled"] is True


def test_a_batch_is_completed_after_its_manifest_is_settled(hooks: DeliveryService) -> None:
    hooks.issue(manifest="acme/results.jsonl.gz")
    assert types(hooks) == ["grants.decided"]
    lease, now = hooks.context.new_lease(), hooks.context.now()
    with write_transaction(hooks.engine) as connection:
        manifest = lease_manifest(connection, "acme", lease, now)
        assert manifest is not None
        settle_manifest(connection, manifest, ManifestWritten(1, 0, 99, "a" * 64), now)
    assert types(hooks) == ["grants.decided", "batch.completed"]
    assert hooks.delivered(-1)["data"]["manifest"]["state"] == "written"


def test_an_endpoint_without_outcomes_is_told_when_the_batch_is_complete(
    hooks: DeliveryService,
) -> None:
    hooks.service.apply(hooks_config(("batch.completed",)))
    first, *rest = download_chunks(items=5, size=2)
    issue_chunks(hooks, [first])
    assert types(hooks) == []
    issue_chunks(hooks, rest)
    assert types(hooks) == ["batch.completed"]


def test_a_batch_whose_endpoint_was_away_for_its_last_chunk_is_completed(
    hooks: DeliveryService,
) -> None:
    *earlier, last = download_chunks(items=5, size=2)
    issue_chunks(hooks, earlier)
    sent(hooks)
    config = hooks_config(None)
    away = replace(config.tenants["acme"], endpoints={})
    hooks.service.apply(replace(config, tenants={"acme": away}))
    issue_chunks(hooks, [last])
    hooks.service.apply(config)
    assert types(hooks)[2:] == ["batch.completed"]


def test_a_batch_that_is_refused_as_a_whole_is_completed_with_the_refusal(
    hooks: DeliveryService,
) -> None:
    hooks.issue(deadline="2020-01-01T00:00:00Z")
    assert types(hooks) == ["grants.decided", "batch.completed"]
    assert hooks.delivered(-1)["data"]["refusal"]["code"] == "deadline_passed"


def test_a_quota_warns_each_endpoint_once_in_a_window(hooks: DeliveryService, clock: Clock) -> None:
    quota = Quota("grants", "hour", 10, warn_at=3)
    hooks.service.apply(with_quota(quota, events=("quota.warning",)))
    for _ in range(5):
        hooks.service.issue(grant_message(["acme/a"]))
    warnings = sent(hooks)
    assert [content["type"] for content in warnings] == ["quota.warning"] * 2
    assert sorted(hooks.client.calls) == ["acme.hook", "acme.spare"]
    state = warnings[0]["data"]["quota"]
    assert (state["metric"], state["used"], state["warn_at"]) == ("grants", 3, 3)
    clock.forward(hours=1)
    hooks.service.issue(grant_message(["acme/a", "acme/b", "acme/c"]))
    assert len(sent(hooks)) == 4


def test_a_live_quota_that_is_reached_again_and_again_warns_once_a_day(
    hooks: DeliveryService, clock: Clock
) -> None:
    quota = Quota("grants", "live", 10, warn_at=1)
    hooks.service.apply(with_quota(quota, events=("quota.warning",)))
    for _ in range(3):
        hooks.service.issue(grant_message(["acme/a"]))
        clock.forward(minutes=6)
        clean_up(hooks.context)
    assert len(sent(hooks)) == 2  # one for each endpoint


def test_a_refused_request_warns_of_no_quota(hooks: DeliveryService) -> None:
    quota = Quota("grants", "hour", 3, warn_at=3)
    hooks.service.apply(with_quota(quota, events=None))
    hooks.service.issue(grant_message([f"acme/{number}" for number in range(4)]))
    assert [row for row in hooks.service.rows(Delivery) if row.event == "quota.warning"] == []
