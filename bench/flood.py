"""The waits of a tenant's single grants while the messages of another one arrive, and stand there.

`python -m bench.flood SENDER MESSAGES` is the flood, in a process of its own. It takes the broker
from VALETKEY_BROKER_URL.
"""

import os
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any
from uuid import uuid4

import redis
from celery import Celery

from bench import service
from bench.comparison import Spread, milliseconds
from bench.metrics import Measurements, Metric, at_most
from tests.support.builders.frames import call_text, message_frame
from tests.support.builders.messages import batch_id, grant_message
from valetkey import Client, NoAnswer
from valetkey.wire import INTERACTIVE_QUEUE, ISSUE_TASK
from worker.dev.stack import Stack

MESSAGES = 1_000_000
_SENDERS = {"": "LPUSH", "_celery": "Celery"}
_SHARE = {"LPUSH": 1, "Celery": 10}  # Celery takes ten times as long for a message
_STANDING_SECONDS = 60.0
_TIMEOUT = 50.0  # seconds
_PAUSE = 0.05  # seconds between two requests, as of a producer that does more than that
_PIPELINE = 500  # messages

METRICS = tuple(
    metric
    for end, sender in _SENDERS.items()
    for metric in (
        Metric(f"flood_per_second{end}", f"rate at which a flood arrives, by {sender}", "/s"),
        Metric(f"flood_arriving_ms{end}", "a neighbour's single grant meanwhile, median", "ms"),
        Metric(f"flood_arriving_most_ms{end}", "the same, the slowest", "ms", at_most(3_000)),
        Metric(f"flood_standing_ms{end}", "the same while the flood stands there, median", "ms"),
        Metric(f"flood_standing_most_ms{end}", "the same, the slowest", "ms", at_most(1_000)),
    )
)


def measure(messages: int) -> Measurements:
    """Measure a flood of this number of messages, and one from plain Celery of a tenth of it."""
    results: Measurements = {}
    for end, sender in _SENDERS.items():
        values = measure_flood(sender, messages // _SHARE[sender], _STANDING_SECONDS)
        results |= {f"{name}{end}": value for name, value in values.items()}
    return results


def measure_flood(sender: str, messages: int, standing_seconds: float) -> Measurements:
    """Measure the waits of a neighbour in a service of its own."""
    with service.running_service() as stack, service.signing_client(stack) as client:
        _waits(client, lambda: False)  # warm up connections and imports
        began = time.monotonic()
        with _flood(stack, sender, messages) as process:
            arriving = _waits(client, lambda: process.poll() is None)
        took = time.monotonic() - began
        end = time.monotonic() + standing_seconds
        standing = _waits(client, lambda: time.monotonic() < end)
    return {
        "flood_per_second": messages / took,
        "flood_arriving_ms": arriving.map(milliseconds),
        "flood_arriving_most_ms": milliseconds(arriving.most),
        "flood_standing_ms": standing.map(milliseconds),
        "flood_standing_most_ms": milliseconds(standing.most),
    }


def _waits(client: Client, goes_on: Callable[[], bool]) -> Spread:
    """Request one grant after the other; return their waits in seconds.

    One without an answer counts with the timeout.
    """
    waits = []
    while True:
        began = time.monotonic()
        with suppress(NoAnswer):
            client.download(service.BUCKET, "2026/11/u-1.pdf").result(_TIMEOUT)
        waits.append(time.monotonic() - began)
        if not goes_on():
            return Spread(waits)
        time.sleep(_PAUSE)


@contextmanager
def _flood(stack: Stack, sender: str, messages: int) -> "Iterator[subprocess.Popen[bytes]]":
    command = [sys.executable, "-m", "bench.flood", sender, str(messages)]
    with subprocess.Popen(command, env=dict(stack.environ)) as process:
        try:
            yield process
        finally:
            process.terminate()


def _messages(count: int) -> Iterator[dict[str, Any]]:
    terms = {"kind": "download", "bucket": service.BUCKET, "expires_in": 300}
    for number in range(count):
        yield grant_message([f"2026/{number}"], tenant="unsigned", grant=terms)


def _frames(count: int) -> Iterator[str]:
    """Yield frames, built from one of them: to write each as JSON takes longer than to send it."""
    (message,) = _messages(1)
    text, task_id = call_text(message), str(uuid4())
    head, tail = message_frame(message, task_id).split(b64encode(text.encode()).decode())
    for _ in range(count):
        body = text.replace(message["batch"], batch_id()).encode()
        yield f"{head}{b64encode(body).decode()}{tail.replace(task_id, str(uuid4()))}"


def _push(broker_url: str, count: int) -> None:
    with redis.Redis.from_url(broker_url) as broker:
        frames = _frames(count)
        while some := list(islice(frames, _PIPELINE)):
            broker.lpush(INTERACTIVE_QUEUE, *some)


def _send_tasks(broker_url: str, count: int) -> None:
    app = Celery(broker=broker_url)
    for message in _messages(count):
        app.send_task(ISSUE_TASK, args=[message], queue=INTERACTIVE_QUEUE, ignore_result=True)


if __name__ == "__main__":
    send = {"LPUSH": _push, "Celery": _send_tasks}[sys.argv[1]]
    send(os.environ["VALETKEY_BROKER_URL"], int(sys.argv[2]))
