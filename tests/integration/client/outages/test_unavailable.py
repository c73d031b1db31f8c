"""What a client makes of the service's hint that it is unavailable."""

import json
import logging
import time
from threading import Event
from typing import Any

import pytest
import redis

from tests.support.fakes.fake_service import Action, Plan, running_fake_service, stored_results
from tests.support.servers.waiting import wait_until
from valetkey import BatchHandle, Client, NoAnswer, ServiceUnavailable
from valetkey.redis_urls import default_result_url
from valetkey.wire.messages import task_id
from valetkey.wire.unavailable import Unavailable

SAID = r"within \S+ s.*: the service's database is unavailable; the request may still be decided"


def always(action: Action) -> Plan:
    return lambda _message, _arrival: action


def first(action: Action, times: int = 2) -> Plan:
    return lambda _message, arrival: action if arrival <= times else "answer"


def store(broker: str, batch: str, status: str, result: Any) -> None:
    """Write a result as anyone with access to the result store can."""
    name, text = (
        f"celery-task-meta-{task_id(batch, 0)}",
        json.dumps({"status": status, "result": result}),
    )
    with redis.Redis.from_url(default_result_url(broker) or broker) as server:
        server.set(name, text, ex=60)
        server.publish(name, text)


def test_a_request_that_waits_for_the_database_says_so_after_the_timeout(
    broker: str, client: Client
) -> None:
    with (
        running_fake_service(broker, always("wait")),
        pytest.raises(ServiceUnavailable, match=SAID) as caught,
    ):
        client.download("reports", "a.pdf").result(0.5)
    assert (isinstance(caught.value, NoAnswer), caught.value.retry_in) == (True, 4)


def test_the_last_hint_does_not_stop_a_client_from_sending_again(
    broker: str, client: Client
) -> None:
    with running_fake_service(broker, first("give up")) as service:
        handle = client.download("reports", "a.pdf")
        assert handle.result(20).key == "a.pdf"
        assert sum(service.arrivals.values()) >= 3
    assert handle.batch.service_outage is None


def test_an_answer_to_one_chunk_ends_the_outage_of_its_batch(broker: str, client: Client) -> None:
    is_up = Event()

    def plan(message: dict[str, Any], _arrival: int) -> Action:
        if not is_up.is_set():
            return "wait"
        return "answer" if message["chunk"] else "lose"

    with running_fake_service(broker, plan):
        batch = client.download_many("reports", ["a", "b"], chunk_size=1)
        with pytest.raises(ServiceUnavailable):
            read(batch, 0.5)
        is_up.set()
        next(batch.as_completed(10))
        with pytest.raises(NoAnswer) as caught:  # the old hint is still in the store
            read(batch, 0.5)
    assert not isinstance(caught.value, ServiceUnavailable)


def read(batch: BatchHandle, seconds: float) -> list[Any]:
    return list(batch.results(seconds))


def test_an_outage_is_logged_once(
    broker: str, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING, "valetkey"),
        running_fake_service(broker, first("wait", 4)),
    ):
        client.download("reports", "a.pdf").result(20)
    assert caplog.messages == ["waiting: the service's database is unavailable"]


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        ({"part": "\x1b[2Jevil http://evil.test"}, "the service is unavailable"),
        ({"part": ["database"]}, "the service is unavailable"),
        ({"retry_in": 10**9}, "the service's database is unavailable"),
        ({"retry_in": -1}, "no worker takes it from the queue"),
        ({"retry_in": True}, "no worker takes it from the queue"),
        ({"at": "now"}, "no worker takes it from the queue"),
        ({"at": 10**400}, "no worker takes it from the queue"),
        ({"at": 1_700_000_000}, "no worker takes it from the queue"),
        ({"code": "evil"}, "no worker takes it from the queue"),
    ],
)
def test_no_text_of_a_forged_hint_is_repeated_and_a_stale_one_is_ignored(
    broker: str, client: Client, hint: dict[str, Any], words: str
) -> None:
    handle = client.download("reports", "a.pdf")
    error = Unavailable("database", 4, int(time.time())).celery_error()
    store(broker, handle.id, "RETRY", {**error, "exc_message": ["evil"], **hint})
    with pytest.raises(NoAnswer, match=words) as caught:
        handle.result(0.5)
    assert "evil" not in str(caught.value)
    with running_fake_service(broker):
        assert handle.result(20).key == "a.pdf"


def test_a_hint_stays_in_the_store_and_a_last_one_is_removed(broker: str, client: Client) -> None:
    handle = client.download("reports", "a.pdf")
    for state, retry_in in (("RETRY", 4), ("FAILURE", None)):
        hint = Unavailable("credentials", retry_in, int(time.time()))
        store(broker, handle.id, state, hint.celery_error())
        with pytest.raises(ServiceUnavailable, match="no valid credentials for storage"):
            handle.result(0.4)
        assert len(stored_results(broker)) == (1 if retry_in else 0)


TAKEN = "a worker took it from the queue and has not answered"


def test_a_message_that_left_the_queue_was_taken_by_a_worker(
    broker: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 30.0)
    with running_fake_service(broker, lambda _message, _arrival: "lose") as service:
        handle = client.download("reports", "a.pdf")
        wait_until(lambda: service.arrivals)
        with pytest.raises(NoAnswer, match=TAKEN):
            handle.result(0.3)


def test_a_message_that_is_given_up_is_withdrawn_from_the_queue(
    broker: str, client: Client
) -> None:
    with pytest.raises(NoAnswer, match="no worker takes it from the queue"):
        client.usage(0.3)
    with redis.Redis.from_url(broker) as server:
        assert server.llen("valetkey") == 0


def test_a_producer_that_may_not_read_the_queue_is_told_less_and_asks_once(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 30.0)
    with redis.Redis.from_url(broker) as admin:
        rights = ("on", ">pw", "~*", "&*", "+@all", "-lpos", "-lrem")
        admin.execute_command("ACL", "SETUSER", "bob", *rights)
        admin.execute_command("ACL", "LOG", "RESET")
        try:
            url = broker.replace("redis://", "redis://bob:pw@")
            with Client(url, tenant="acme", exit_timeout=0) as client:
                for _ in range(2):
                    with pytest.raises(NoAnswer, match=r"s: is a worker running\?"):
                        client.usage(0.3)
            denied = admin.acl_log()
            assert [(entry["object"], entry["count"]) for entry in denied] == [
                ("lpos", 4)
            ]  # at once
        finally:
            admin.execute_command("ACL", "DELUSER", "bob")
