"""A program gets a fresh grant for an earlier one, of the real service."""

import pytest

from tests.support.builders.messages import batch_id
from tests.support.fakes.fake_service import FakeService
from tests.support.s3.http_requests import get, put, send
from valetkey import Client, Refused


def used_grants(client: Client) -> int:
    return next(quota.used for quota in client.usage() if quota.metric == "grants")


def test_a_fresh_link_reads_the_same_object_and_is_charged(keyed: Client) -> None:
    upload = keyed.put("demo", f"acme/{batch_id()}", size=3)
    assert send(put(upload.result(), b"abc")).is_success
    first = keyed.download("demo", upload.result().key, filename="a.txt").result()
    before = used_grants(keyed)
    handle = keyed.reissue(first, expires_in=60, reason="opened late")
    fresh = handle.result()
    assert (fresh.key, fresh.id) == (first.key, f"{handle.id}.0")
    response = send(get(fresh.url))
    assert response.body == b"abc"
    assert "a.txt" in response.headers["content-disposition"]
    assert used_grants(keyed) == before + 1


def task_ids(worker: FakeService, name: str) -> set[str]:
    """Return the task ids under which the messages of a batch arrived.

    While a successful result is stored, Celery does not replace it: another request under the same
    task id would be answered with it.
    """
    return {headers["id"] for headers, message in worker.received if message.get("batch") == name}


def test_another_request_under_a_used_batch_id_is_a_conflict(
    keyed: Client, worker: FakeService
) -> None:
    first, other = (keyed.download("demo", f"acme/{batch_id()}").result() for _ in range(2))
    name = batch_id()
    keyed.reissue(first, batch_id=name).result()
    for grant, seconds in ((other, None), (first, 60)):
        with pytest.raises(Refused, match="batch_conflict"):
            keyed.reissue(grant, batch_id=name, expires_in=seconds).result()
    assert len(task_ids(worker, name)) == 3
