from collections.abc import Sequence
from threading import Event
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from tests.support.builders.messages import DEMO, POLICY
from worker.base.jobs import ProblemLog
from worker.rules.tenant_config import Bucket, Tenant, TenantAccess, TenantConfig
from worker.uses.events.event_messages import QueueTargets
from worker.uses.events.event_queues import event_queues, queue_name
from worker.uses.events.queue_readers import QueueReaders
from worker.uses.uses_permissions import queue_region

ACME, UMBRELLA = (TenantAccess(DEMO, Tenant(name), POLICY) for name in ("acme", "umbrella"))


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("sqs.eu-central-1.amazonaws.com", "eu-central-1"),
        ("sqs.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("sqs-fips.us-east-1.amazonaws.com", "us-east-1"),
        ("vpce-0a1b.sqs.us-west-2.vpce.amazonaws.com", "us-west-2"),
        ("eu-west-1.queue.amazonaws.com", "eu-west-1"),
        ("127.0.0.1:9324", None),
        ("elasticmq.example.com", None),
    ],
)
def test_the_region_is_the_one_that_the_url_of_a_queue_names(host: str, region: str | None) -> None:
    url = f"https://{host}/111122223333/uploads"
    assert (queue_region(url), queue_name(url)) == (region, "uploads")


def test_a_queue_that_several_profiles_name_is_read_once() -> None:
    buckets = [
        Bucket(name, "b", "us-east-1", events_queue=queue)
        for name, queue in (("b", "http://q/1"), ("a", "http://q/1"), ("c", None))
    ]
    assert [(url, bucket.name) for url, bucket in event_queues(buckets)] == [("http://q/1", "a")]


@pytest.mark.parametrize(
    ("key", "access"),
    [
        ("acme/a.png", ACME),
        ("acme/umbrella/a.png", UMBRELLA),
        ("acme/umbrella/b/c.png", UMBRELLA),
        ("acme2/a.png", None),
        ("acme", None),
        ("a.png", None),
    ],
)
def test_a_key_belongs_to_the_tenant_with_the_longest_prefix_of_it(
    key: str, access: TenantAccess | None
) -> None:
    accesses = {("b", "acme/"): ACME, ("b", "acme/umbrella/"): UMBRELLA}
    targets = QueueTargets(accesses, {}, {})
    assert targets.find_access("b", key) is access
    assert targets.find_access("another", key) is None


def test_a_tenant_with_the_whole_bucket_has_every_key() -> None:
    targets = QueueTargets({("b", ""): ACME}, {}, {})
    assert targets.find_access("b", "x/y") is ACME


def test_a_process_without_a_queue_says_once_how_to_name_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.uses.events.queue_readers.CONFIG_INTERVAL", 0)
    config = SimpleNamespace(current=lambda: TenantConfig({"demo": DEMO}, {}))
    context = SimpleNamespace(config=config, problems=ProblemLog())
    stop, beats = Event(), list[Sequence[str]]()

    def beat(queues: Sequence[str]) -> None:
        beats.append(queues)
        if len(beats) == 2:
            stop.set()

    with capture_logs() as logs:
        QueueReaders(cast("Any", context)).run(stop, beat)
    assert (beats, [entry["event"] for entry in logs]) == ([[], []], ["queues_wait"])
    assert "set events_queue" in logs[0]["problem"]
