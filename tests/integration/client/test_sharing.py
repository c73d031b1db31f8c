"""Clients in threads and processes, and what can be pickled and copied."""

import copy
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event
from typing import Any

import pytest

from tests.support.fakes.fake_service import running_fake_service, stored_results
from tests.support.servers.waiting import wait_until
from valetkey import (
    AsyncClient,
    BrokerUnreachable,
    Client,
    Expired,
    Grant,
    NoAnswer,
    NotStored,
    Refusal,
    Refused,
    SealedForAnotherKey,
    ServiceUnavailable,
    UnreadableReply,
    UnusableGrant,
    UseState,
)

GRANT = Grant.__pydantic_validator__.validate_python(  # type: ignore[attr-defined]
    {
        "id": "0199a000-0000-7000-8000-000000000000.0",
        "key": "acme/a",
        "method": "GET",
        "url": "https://storage.example.com/a?X-Amz-Signature=secret",
        "expires_at": "2026-01-01T00:00:00Z",
        "limited_by": "request",
    }
)
REFUSAL = Refusal(code="key_not_allowed", field="items[0].key", message="not below acme/")


def copies(value: Any) -> list[Any]:
    pickled = pickle.loads(pickle.dumps(value))  # noqa: S301 - our own
    return [pickled, copy.copy(value), copy.deepcopy(value)]


def test_threads_share_a_client(client: Client, broker: str) -> None:
    def request(thread: int) -> list[str]:
        handles = [client.download("demo", f"{thread}/{number}") for number in range(5)]
        return [handle.result(30).key for handle in handles]

    with running_fake_service(broker), ThreadPoolExecutor(16) as pool:
        results = list(pool.map(request, range(16)))
    assert results == [[f"{thread}/{number}" for number in range(5)] for thread in range(16)]


def test_the_requests_of_threads_that_ended_are_flushed(client: Client, broker: str) -> None:
    with running_fake_service(broker) as service:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(client.download, "demo", "a").result()
        client.flush(10)
        assert len(service.received) == 1


def test_connections_of_ended_threads_are_closed(client: Client, broker: str) -> None:
    with running_fake_service(broker):
        for _ in range(3):
            with ThreadPoolExecutor(1) as pool:
                pool.submit(lambda: client.download("demo", "a").result(10)).result()
    assert len(client._dispatchers._by_thread) == 2  # that of this thread, and the last one


def test_leaving_a_client_waits_for_threads_that_wait(broker: str) -> None:
    is_waiting = Event()

    def plan(_message: dict[str, Any], arrival: int) -> Any:
        is_waiting.set()
        return "lose" if arrival == 1 else "answer"

    with running_fake_service(broker, plan), ThreadPoolExecutor(1) as pool:
        with Client(broker, tenant="acme") as client:
            waiting = pool.submit(lambda: client.download("demo", "a").result())
            assert is_waiting.wait(10)
        assert waiting.result().key == "a"


def test_closing_a_client_while_a_thread_waits_closes_the_others(broker: str) -> None:
    client, is_sent = Client(broker, tenant="acme"), Event()

    def wait_in_vain() -> Grant:
        handle = client.download("demo", "a")
        is_sent.set()
        return handle.result(3)

    def is_used(dispatcher: Any) -> bool:
        is_free = dispatcher._lock.acquire(blocking=False)
        if is_free:
            dispatcher._lock.release()
        return not is_free

    with running_fake_service(broker, lambda *_: "lose"), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait_in_vain)
        assert is_sent.wait(10)
        dispatchers = client._dispatchers._by_thread
        wait_until(lambda: any(map(is_used, dispatchers.values())), what="the thread waits")
        client._dispatchers._by_thread = dict(reversed(dispatchers.items()))
        with pytest.raises(RuntimeError, match="another thread is waiting"):
            client.close()
        with pytest.raises(NoAnswer):
            waiting.result()
        assert sorted(each._is_closed for each in client._dispatchers._by_thread.values()) == [
            False,
            True,
        ]
        client.close()


def has_replies(broker: str, number: int) -> bool:
    return len(stored_results(broker)) == number


def test_connections_of_threads_that_never_read_a_reply_are_closed(
    client: Client, broker: str
) -> None:
    with running_fake_service(broker) as service:
        for number in range(5):
            with ThreadPoolExecutor(1) as pool:
                pool.submit(client.download, "demo", f"{number}").result()
            wait_until(partial(has_replies, broker, number + 1), what="reply")
    assert len(service.received) == 5
    assert len(client._dispatchers._by_thread) == 2  # of this thread, and of the last one


def test_two_threads_that_wait_for_one_handle_are_refused(client: Client, broker: str) -> None:
    is_waiting = Event()

    def plan(_message: dict[str, Any], _arrival: int) -> Any:
        is_waiting.set()
        return "lose"

    with running_fake_service(broker, plan), ThreadPoolExecutor(1) as pool:
        handle = client.download("demo", "a")
        waiting = pool.submit(handle.result, 1)
        assert is_waiting.wait(10)
        with pytest.raises(RuntimeError, match="another thread is waiting for this handle"):
            handle.result(1)
        with pytest.raises(NoAnswer):
            waiting.result()


def test_a_forked_process_opens_connections_of_its_own(client: Client, broker: str) -> None:
    with running_fake_service(broker):
        handle = client.download("demo", "a")
        process_id = os.fork()
        if not process_id:
            exit_code = 1
            try:
                with pytest.raises(RuntimeError, match="the process that was forked"):
                    handle.result(10)
                exit_code = client.download("demo", "c").result(10).key != "c"
            finally:
                os._exit(exit_code)
        assert os.waitstatus_to_exitcode(os.waitpid(process_id, 0)[1]) == 0
        assert handle.result(10).key == "a"


@pytest.mark.parametrize("value", [GRANT, REFUSAL], ids=["grant", "refusal"])
def test_results_can_be_pickled_and_copied(value: Grant | Refusal) -> None:
    assert copies(value) == [value] * 3


ERRORS = [
    Refused(REFUSAL),
    Expired(GRANT, 60),
    NoAnswer("a"),
    ServiceUnavailable("a", retry_in=5),
    BrokerUnreachable("a", is_permanent=True, server="result store"),
    SealedForAnotherKey("acme/old"),
    UnreadableReply("new"),
    UnusableGrant("PATCH"),
    NotStored("a", UseState(item=0, state="late")),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_can_be_pickled_and_copied(error: Exception) -> None:
    for copied in copies(error):
        assert (type(copied), str(copied), vars(copied)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy], ids=["pickled", "copied"])
def test_handles_and_clients_cannot_be_copied(
    client: Client, broker: str, copied: Callable[[Any], Any]
) -> None:
    handle = client.download("demo", "a")
    for value in (handle, handle.batch):
        with pytest.raises(TypeError, match=r"pass its id to another process"):
            copied(value)
    with pytest.raises(TypeError, match="create one in each process"):
        copied(client)
    with pytest.raises(TypeError, match="create one in each process"):
        copied(AsyncClient(broker, tenant="acme"))
