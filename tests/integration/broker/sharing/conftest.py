import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from tests.support.builders.frames import message_frame
from tests.support.builders.messages import grant_message
from worker.broker.fair_queue import FairQueue, QueueSharing
from worker.broker.lanes import LaneLimits
from worker.shared.worker_states import queue_lengths

_RUN = (
    "import sys, threading; from worker.broker.fair_queue import FairQueue; "
    "FairQueue(sys.argv[1]).run(threading.Event())"
)


def numbered(tenant: str, count: int) -> list[str]:
    """Return TENANT/NUMBER for each number."""
    return [f"{tenant}/{number}" for number in range(count)]


def frame_name(frame: Any) -> str:
    name: str = json.loads(frame)["headers"]["id"]
    return name


class Queues:
    """The queues of an empty broker, and passes of a fair queue over them."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.sharing = QueueSharing(client)

    def put(self, names: Sequence[str], queue: str = "valetkey") -> None:
        """Put one message into a queue for each TENANT/NUMBER, in this order."""
        for name in names:
            message = grant_message([f"{name}/0"], tenant=name.partition("/")[0])
            self.client.lpush(queue, message_frame(message, name, queue))

    def take(self, queue: str) -> list[str]:
        """Take all messages of a queue, as workers do; return their names from the oldest on."""
        names = []
        while (frame := self.client.rpop(queue)) is not None:
            names.append(frame_name(frame))
        return names

    def act_before_move(self, act: Callable[[], object], patch: pytest.MonkeyPatch) -> None:
        """Let others act once, after a pass has read a queue and before it moves frames."""
        move = self.sharing._move_frames

        def act_then_move(queue: str, moves: list[tuple[int, str, bytes]]) -> None:
            act()
            patch.undo()
            move(queue, moves)

        patch.setattr(self.sharing, "_move_frames", act_then_move)

    def run_pass(self) -> bool:
        """Run a pass; return true if messages wait in lanes."""
        return self.sharing.run_pass().is_waiting

    def serve_all(self, queue: str = "valetkey.bulk") -> list[str]:
        """Run passes, and take what they serve, until no message is left."""
        names: list[str] = []
        while sum(queue_lengths(self.client).values()):
            self.sharing.run_pass()
            names += self.take(queue)
        return names


@pytest.fixture
def queues(broker: str) -> Iterator[Queues]:
    """The broker is emptied again at the end."""
    with redis.Redis.from_url(broker) as client:
        yield Queues(client)
        client.flushall()


@contextmanager
def running_fair_queue(url: str, limits: Mapping[str, LaneLimits] | None = None) -> Iterator[None]:
    """Run a fair queue in a thread."""
    stop = threading.Event()
    thread = threading.Thread(target=FairQueue(url, lambda: limits or {}).run, args=(stop,))
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
