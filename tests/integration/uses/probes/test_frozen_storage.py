"""A message that asks for objects does not wait for storage that gives no answer."""

from collections.abc import Callable, Iterator
from threading import Event
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.builders.messages import Clock
from tests.support.builders.services import InProcessService
from tests.support.fakes.http_storage import StorageResponse
from tests.support.s3.unreliable_storage import SLOW_DOWN, UnreliableStorage
from tests.support.uses.uploading import Uploader
from worker.aws.boto_clients import QUICK, CallLimits
from worker.aws.clients import S3Clients
from worker.aws.silent_buckets import SILENCE, SilentBuckets
from worker.usecases.uses import probe

Ask = Callable[[], None]


@pytest.fixture
def ask(service: InProcessService, uploader: Uploader) -> Ask:
    """A function that asks for the objects of a batch of two slots, neither of which is stored."""
    batch = uploader.request("put", "acme/a", "acme/b", size=3)[0].id.partition(".")[0]

    def run() -> None:
        message = {"v": 1, "ask": "status", "tenant": "acme", "batch": batch, "probe": True}
        assert service.issue(message)["counts"] == {"open": 2}

    return run


@pytest.fixture
def frozen(
    s3: S3Clients, storage: UnreliableStorage, monkeypatch: pytest.MonkeyPatch
) -> Iterator[UnreliableStorage]:
    """A storage that answers nothing until the test ends, and calls that soon give up."""
    monkeypatch.setattr(probe, "QUICK", CallLimits(0.1, 0.1, QUICK.attempts))
    monkeypatch.setattr(s3, "silent_buckets", SilentBuckets())
    thawed = Event()

    def wait(_: Any, forward: Callable[[], StorageResponse]) -> StorageResponse:
        thawed.wait(60)
        return forward()

    storage.interfere = wait
    yield storage
    thawed.set()


def test_storage_that_does_not_answer_is_sent_one_request_by_a_message(
    ask: Ask, frozen: UnreliableStorage
) -> None:
    ask()
    assert frozen.count("HEAD") == 1


def test_storage_that_does_not_answer_is_sent_none_by_the_next_message(
    ask: Ask, frozen: UnreliableStorage, clock: Clock
) -> None:
    ask()
    clock.forward(seconds=4)
    ask()
    assert frozen.count("HEAD") == 1


def test_storage_that_does_not_answer_is_logged_once(
    ask: Ask, frozen: UnreliableStorage, clock: Clock
) -> None:
    with capture_logs() as logs:
        for _ in range(3):
            ask()
            clock.time += SILENCE
    assert frozen.count("HEAD") == 3
    unanswered = [each for each in logs if each["event"] == "probe_unanswered"]
    assert [(each["log_level"], each["bucket"]) for each in unanswered] == [("warning", "demo")]


def test_storage_that_fails_in_another_way_is_logged_again(
    ask: Ask, frozen: UnreliableStorage, clock: Clock
) -> None:
    with capture_logs() as logs:
        ask()
        clock.time += SILENCE
        frozen.interfere = lambda *_: SLOW_DOWN
        ask()
    assert len([each for each in logs if each["event"] == "probe_unanswered"]) == 2
