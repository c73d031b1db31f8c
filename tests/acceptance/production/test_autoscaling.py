"""The queries of deploy/kubernetes count all waiting messages, in queues and in lanes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import redis

from tests.integration.broker.sharing.conftest import running_fair_queue
from tests.support.alerts.prometheus_server import Prometheus, running_prometheus
from tests.support.builders import services
from tests.support.builders.frames import message_frame
from tests.support.builders.messages import grant_message, tenant_config
from tests.support.cli.scraping import serving
from tests.support.deploy.manifests import objects
from tests.support.servers.databases import migrated_file, open_engine
from tests.support.servers.waiting import wait_until
from worker import clock
from worker.aws.s3_clients import S3Clients
from worker.broker.fair_queue import BULK_LIMIT

WAITING = {"valetkey": {"acme": 3_000, "stranger": 40}, "valetkey.bulk": {"acme": 700}}
TOTALS = {queue: sum(counts.values()) for queue, counts in WAITING.items()}


@pytest.fixture(scope="module")
def broker(valkey_url: str) -> Iterator[Any]:
    """A broker whose messages a real fair queue has moved into lanes; no worker takes any."""
    with redis.Redis.from_url(valkey_url) as client:
        client.flushall()
        for queue, counts in WAITING.items():
            for tenant, count in counts.items():
                message = grant_message([f"{tenant}/0"], tenant=tenant)
                frames = [message_frame(message, f"{tenant}-{n}", queue) for n in range(count)]
                client.lpush(queue, *frames)
        with running_fair_queue(valkey_url):
            wait_until(lambda: client.llen("valetkey") < 100, 60, "messages wait in lanes")
            wait_until(lambda: client.llen("valetkey.bulk") < 100, 60, "messages wait in lanes")
        yield client
        client.flushall()


@pytest.fixture(scope="module")
def prometheus(
    broker: Any,  # noqa: ARG001 - messages wait before the first scrape
    valkey_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Prometheus]:
    data: Path = tmp_path_factory.mktemp("scaling")
    environ = {
        "VALETKEY_BROKER_URL": valkey_url,
        "VALETKEY_RESULT_URL": valkey_url,
        "VALETKEY_DATABASE_URL": migrated_file(data / "valetkey.db"),
    }
    with open_engine(environ["VALETKEY_DATABASE_URL"]) as engine:
        services.build_service(engine, S3Clients(), clock.now).apply(tenant_config())
    with (
        patch.dict(os.environ, environ),
        serving() as (_, url),
        running_prometheus(data, url) as server,
    ):
        yield server


def query(name: str) -> str:
    (trigger,) = objects("ScaledObject")[f"valetkey-{name}"]["spec"]["triggers"]
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    text: str = trigger["metadata"]["query"]
    return text


def test_the_values_for_keda_are_the_numbers_of_messages_that_wait(
    broker: Any, prometheus: Prometheus
) -> None:
    (issue,), (bulk,) = (prometheus.query(query(name)) for name in ("issue", "bulk"))
    waiting = sum(TOTALS.values())
    assert waiting <= issue + bulk <= waiting + 1  # `metrics` itself may have sent a probe
    # A small request whose tenant's turn it is may be moved into the bulk queue.
    assert abs(bulk - TOTALS["valetkey.bulk"]) <= BULK_LIMIT
    lists = broker.llen("valetkey") + broker.llen("valetkey.bulk")
    assert lists < waiting / 20  # what the scaler `redis-lists` would see


def test_a_query_has_no_value_without_the_metrics_so_that_keda_falls_back(
    prometheus: Prometheus,
) -> None:
    assert prometheus.query(query("issue").replace("valetkey_", "missing_")) == []
