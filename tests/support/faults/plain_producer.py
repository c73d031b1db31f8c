"""A producer without the client: it sends each request once, with plain Celery."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from celery import Celery
from celery.exceptions import TimeoutError as NoResult
from celery.result import AsyncResult

from tests.support.builders.messages import grant_message
from tests.support.faults.record import Record, ToldResult, told_grant
from valetkey.wire.messages import INTERACTIVE_QUEUE, ISSUE_TASK

_REQUESTS = 8  # that are sent before the first result is read


@dataclass
class PlainProducer:
    """Sends requests of one item for the tenant queueing, and waits for each result once."""

    name: str
    urls: tuple[str, str]
    wait_seconds: float

    def run(self, record: Record, is_stopping: Callable[[], bool]) -> None:
        """Make calls until is_stopping() returns true."""
        with self.running_app() as app:
            for number in count():
                if is_stopping():
                    return
                began = time.monotonic()
                self.receive(self.send(app, record, number), record)
                record.complete_call(self.name, began)

    @contextmanager
    def running_app(self) -> Iterator[Celery]:
        """Yield a Celery application for the broker and the result store."""
        broker, results = self.urls
        with Celery("plain", broker=broker, backend=results, set_as_current=False) as app:
            yield app
            # Otherwise Celery unsubscribes from each result when Python deletes it, which may be
            # after the broker was stopped, and then tries to reach the broker for 20 seconds.
            app.backend.result_consumer._pubsub = None

    def send(self, app: Celery, record: Record, number: int) -> list[tuple[str, AsyncResult]]:
        """Send requests; return the object key and the result of each."""
        results = []
        for item in range(_REQUESTS):
            key = f"queueing/{self.name}/{number}/{item}"
            message = grant_message([key], tenant="queueing")
            message["grant"]["expires_in"] = 3_600
            record.ask(message["batch"], [key])
            task = app.send_task(
                ISSUE_TASK, args=[message], task_id=message["batch"], queue=INTERACTIVE_QUEUE
            )
            results.append((key, task))
        return results

    def receive(self, results: list[tuple[str, AsyncResult]], record: Record) -> None:
        """Wait for each result, a limited time for all of them together."""
        end = time.monotonic() + self.wait_seconds
        for key, task in results:
            try:
                outcome: dict[str, Any] = task.get(timeout=max(end - time.monotonic(), 0.01))
            except NoResult:
                continue
            item = outcome["items"][0] if outcome["items"] else outcome["refusal"]
            told = ToldResult(key, code=item["code"]) if "code" in item else told_grant(item)
            record.tell_result((str(task.id), 0), told)
