import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from tests.support.builders.frames import message_frame
from tests.support.builders.messages import grant_message
from worker.broker.fair_queue import FairQueue, QueueSharing

_RUN = (
    "import sys, threading; from worker.broker.fair_queue import FairQueue; "
    "FairQueue(sys.argv[1]).run(threading.Event())"
)


@pytest.fixture
def client(broker: str) -> Iterator[redis.Redis]:
    """A client of an empty broker, which is emptied again at the end."""
    with redis.Redis.from_url(broker) as client:
        yield client
        client.flushall()


@pytest.fixture
def sharing(client: redis.Redis) -> QueueSharing:
    return QueueSharing(client)


def put(client: redis.Redis, names: Sequence[str], queue: str = "valetkey", items: int = 1) -> None:
    """Put one message into a queue for each TENANT/NUMBER, in this order."""
    for name in names:
        keys = [f"{name}/{number}" for number in range(items)]
        message = grant_message(keys, tenant=name.partition("/")[0])
        client.lpush(queue, message_frame(message, name, queue))


def numbered(tenant: str, count: int) -> list[str]:
    """Return TENANT/NUMBER for each number."""
    return [f"{tenant}/{number}" for number in range(count)]


def frame_name(frame: Any) -> str:
    name: str = json.loads(frame)["headers"]["id"]
    return name


def take(client: redis.Redis, queue: str) -> list[str]:
    """Take all messages of a queue, as workers do, and return their names from the oldest on."""
    names = []
    while (frame := client.rpop(queue)) is not None:
        names.append(frame_name(frame))
    return names


@contextmanager
def running_fair_queue(url: str) -> Iterator[None]:
    """Run a fair queue in a thread."""
    stop = threading.Event()
    thread = threading.Thread(target=FairQueue(url).run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


def start_fair_queue(url: str) -> "subprocess.Popen[bytes]":
    """Start a fair queue in a process, which can be killed."""
    return subprocess.Popen([sys.executable, "-c", _RUN, url], stderr=subprocess.DEVNULL)
