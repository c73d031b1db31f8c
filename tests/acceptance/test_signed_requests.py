"""Requests and results through the real queue, workers and result store, and their log lines."""

import asyncio
import gzip
import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from celery import Celery

from tests.acceptance.conftest import VAULT_KEY, Service, storage_client
from tests.support.builders.messages import grant_message
from tests.support.crypto.tokens import sign_message
from tests.support.s3.http_requests import get, send
from tests.support.servers.waiting import wait_until
from valetkey import AsyncClient, Code, Grant, Refused
from valetkey.crypto.keys import dump_private_key


def log_lines(service: Service, event: str) -> list[dict[str, Any]]:
    complete = (line for line in service.logs.splitlines(keepends=True) if line.endswith("\n"))
    records = (json.loads(line) for line in complete if f'"{event}"' in line)
    return [line for line in records if line.get("tenant") == "vault"]


def test_a_soft_limit_is_logged_for_a_batch_but_not_for_a_usage_request(service: Service) -> None:
    with service.signing_client(VAULT_KEY) as client:
        handle = client.download("demo", "vault/a")
        handle.result(15)
        client.usage(15)
    wait_until(lambda: "reported" in {line["status"] for line in log_lines(service, "answered")})
    warnings = [line for line in log_lines(service, "quota_warning") if line["batch"] == handle.id]
    warning = warnings[0]  # there is a second one if the chunk was sent again
    assert (warning["metric"], warning["window"], warning["limit"]) == ("grants", "day", 9_999)
    assert None not in {line["batch"] for line in log_lines(service, "quota_warning")}


KEYS = [f"acme/{number}" for number in range(24)]


def results(service: Service, batch: str) -> list[bytes]:
    with redis.Redis.from_url(service.stack.info.result_url) as server:
        return [server.get(name) or b"" for name in server.scan_iter(f"*{batch}*")]


def test_a_manifest_has_working_links_and_redis_has_none_of_them(service: Service) -> None:
    storage = storage_client(service.stack)
    storage.put_object(Bucket="valetkey-demo", Key=KEYS[0], Body=b"content")
    with service.signing_client() as client:
        batch = client.download_many("demo", [*KEYS, "outside"], manifest="acme/all.jsonl.gz")
        manifest = batch.manifest(60)
    content = send(get(manifest.grant.url)).body
    assert (len(content), hashlib.sha256(content).hexdigest()) == (manifest.bytes, manifest.sha256)
    lines = [json.loads(line) for line in gzip.decompress(content).splitlines()]
    assert [line["key"] for line in lines] == [*KEYS, "outside"]
    assert (manifest.issued, manifest.refused, lines[-1]["code"]) == (24, 1, "key_outside_prefix")
    assert send(get(lines[0]["url"])).body == b"content"
    stored_results = results(service, batch.id)
    assert (len(stored_results), len(stored_results[0]) < 1_500) == (1, True)
    assert manifest.grant.url not in service.logs


LIFETIMES = [600, 3_600, 60, 1_800, 3_600]  # seconds
SIGNATURE = re.compile("X-Amz-Signature|X-Amz-Credential")


@pytest.fixture(scope="module")
def batch_ids(service: Service) -> list[str]:
    """The batch ids of downloads with these lifetimes that were granted together."""
    return asyncio.run(request_together(service))


async def request_together(service: Service) -> list[str]:
    info, key = service.stack.info, dump_private_key(VAULT_KEY)
    async with AsyncClient(info.broker_url, info.result_url, key=key, requested_by="t") as client:
        handles = [
            client.download("demo", f"vault/{number}", expires_in=lifetime)
            for number, lifetime in enumerate(LIFETIMES)
        ]
        refused = client.download("demo", "elsewhere/a")
        refusal = (await asyncio.gather(refused.result(), return_exceptions=True))[0]
        grants = await asyncio.gather(*handles)
    assert isinstance(refusal, Refused)
    assert refusal.refusal.code == Code.KEY_OUTSIDE_PREFIX
    assert all(isinstance(grant, Grant) for grant in grants)
    return [handle.id for handle in handles]


def test_one_log_line_has_the_ids_of_all_requests_that_were_answered_together(
    service: Service, batch_ids: list[str]
) -> None:
    wait_until(lambda: "bundled" in {line["status"] for line in log_lines(service, "answered")})
    lines = [line for line in log_lines(service, "answered") if line["status"] == "bundled"]
    assert set(batch_ids) <= set(lines[0]["batches"])
    assert (lines[0]["items"], lines[0]["refused"]) == (6, 1)
    warnings = [line["batch"] for line in log_lines(service, "quota_warning")]
    assert set(warnings) & set(lines[0]["batches"])


def test_a_sealed_answer_to_a_bundle_lives_as_long_as_the_first_of_its_grants(
    service: Service, batch_ids: list[str]
) -> None:
    assert batch_ids
    with redis.Redis.from_url(service.stack.info.result_url) as store:
        names = list(store.scan_iter("celery-task-meta-bundle.*"))
        lives = [store.ttl(name) for name in names]
        stored = [(store.get(name) or b"").decode() for name in names]
    assert lives
    assert all(0 < life <= min(LIFETIMES) for life in lives)
    assert not any(SIGNATURE.search(text) for text in stored)
    assert all('"result": "eyJ' in text for text in stored)


@pytest.fixture(scope="module")
def producer(service: Service) -> Celery:
    """A Celery application that knows only the broker and the result store."""
    info = service.stack.info
    return Celery("anyone", broker=info.broker_url, backend=info.result_url)


def send_request(producer: Celery, *args: Any, **kwargs: Any) -> dict[str, Any]:
    task = producer.send_task("valetkey.issue", args=args, kwargs=kwargs, queue="valetkey")
    outcome: dict[str, Any] = task.get(timeout=15)
    return outcome


def test_a_valid_request_under_the_task_id_of_another_one_replaces_no_result(
    service: Service, producer: Celery
) -> None:
    message, other = grant_message(), grant_message(["vault/a"], tenant="vault")
    task_id = f"{message['batch']}.0"
    stored = []
    with redis.Redis.from_url(service.stack.info.result_url) as store, store.pubsub() as listener:
        listener.subscribe(f"celery-task-meta-{task_id}")
        for each in (message, sign_message(other, VAULT_KEY, datetime.now(UTC))):
            producer.send_task("valetkey.issue", [each], queue="valetkey", task_id=task_id)
            wait_until(lambda: listener.get_message(ignore_subscribe_messages=True))
            stored.append(store.get(f"celery-task-meta-{task_id}"))
    first, second = stored
    assert first is not None
    assert second == first


def put_raw_message(service: Service, body: str, **headers: Any) -> None:
    """Put a raw message into the queue, in the format in which kombu stores it in Redis."""
    frame = {
        "body": body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "valetkey.issue", "id": "hostile"} | headers,
        "properties": {"delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": ""}},
    }
    with redis.Redis.from_url(service.stack.info.broker_url) as broker:
        broker.lpush("valetkey", json.dumps(frame))
        wait_until(lambda: broker.llen("valetkey") == 0, what="the worker takes the message")


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((grant_message(), 2), {}), ((), {"message": grant_message()})],
    ids=["none", "two", "by name"],
)
def test_wrong_arguments_are_refused_as_malformed(
    producer: Celery, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    assert send_request(producer, *args, **kwargs)["refusal"]["code"] == "malformed"


def test_a_token_in_a_frame_that_is_discarded_is_in_no_log(
    service: Service, producer: Celery
) -> None:
    message = grant_message(["vault/a"], tenant="vault")
    token = sign_message(message, VAULT_KEY, datetime.now(UTC))
    put_raw_message(service, json.dumps([[token], {}, None]), timelimit="soon")
    put_raw_message(service, json.dumps([[token], {}, None]), task="os.system")
    put_raw_message(service, token)
    assert send_request(producer, grant_message())["status"] == "issued"
    assert not any(part in service.logs for part in token.split("."))
    assert "[hidden]" in service.logs
