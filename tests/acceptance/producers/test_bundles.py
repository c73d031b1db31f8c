"""Requests of many coroutines share messages, transactions and sealed answers."""

import asyncio
import re

import pytest
import redis

from tests.acceptance.conftest import VAULT_KEY, Service
from tests.acceptance.test_quota_warnings import log_lines
from tests.support.servers.waiting import wait_until
from valetkey import AsyncClient, Code, Grant, Refused
from valetkey.crypto.keys import dump_private_key

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
