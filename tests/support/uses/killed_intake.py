"""Reads a queue in a process of its own, which kills itself at one step."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from worker.uses import use_recorder
from worker.uses.events import event_messages, event_queues, queue_readers
from worker.uses.events.event_intake import main


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(module: Any, name: str) -> None:
    setattr(module, name, die)


def after(module: Any, name: str) -> None:
    function: Callable[..., Any] = getattr(module, name)

    def run(*args: Any, **kwargs: Any) -> None:
        function(*args, **kwargs)
        die()

    setattr(module, name, run)


STEPS: dict[str, Callable[[], None]] = {
    "received": lambda: before(event_messages.MessageGroup, "handle"),
    "identified": lambda: before(event_messages, "record_uses"),
    "recording": lambda: before(use_recorder, "append_use_leaves"),
    "recorded": lambda: before(queue_readers.QueueReader, "_delete"),
    "deleted": lambda: after(event_queues.EventQueue, "delete"),
    "never": lambda: None,
}

if __name__ == "__main__":
    event_queues.VISIBILITY_SECONDS = 2
    queue_readers.WAIT_SECONDS = 1  # it ends only after a call of SQS
    STEPS[sys.argv[1]]()
    main("INFO")
