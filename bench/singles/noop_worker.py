"""A worker of the no-op task, started with the options of the service's own workers."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery import exceptions

from bench import service
from bench.singles import noop_task
from worker.dev.child_processes import Program, running
from worker.dev.stack import Stack

_RESULT_TIMEOUT = 30  # seconds

WaitForResult = Callable[[], object]
SendRequest = Callable[[], WaitForResult]
"""A function that sends one request, and returns a function that waits for its result."""


@contextmanager
def noop_worker(stack: Stack) -> Iterator[SendRequest]:
    """Run the worker beside the service, with as many processes; yield a sender of the task."""
    app = noop_task.create_app(stack.info.broker_url, stack.info.result_url)
    with running(_worker_program(stack), lambda _: _worker_responds(app)):
        yield lambda: _send_noop(app)


def _send_noop(app: Any, timeout: float = _RESULT_TIMEOUT) -> WaitForResult:
    result = app.send_task(noop_task.TASK, queue=noop_task.QUEUE)
    return lambda: result.get(timeout=timeout)


def _worker_responds(app: Any) -> bool:
    try:
        _send_noop(app, timeout=0.5)()
    except exceptions.TimeoutError:
        return False
    return True


def _worker_program(stack: Stack) -> Program:
    # The same options with which worker.run starts the service's workers.
    options = {"pool": "prefork", "concurrency": service.WORKERS, "loglevel": "INFO"}
    options |= {"queues": noop_task.QUEUE, "hostname": "noop@bench"}
    return Program(
        name="noop",
        command=(
            *(sys.executable, "-m", "celery", "-A", "bench.singles.noop_task", "worker"),
            *("--without-gossip", "--without-heartbeat", "--without-mingle"),
            *(f"--{name}={value}" for name, value in options.items()),
        ),
        folder=Path(__file__).parents[2],
        log=Path(stack.children[0].log).with_name("noop.log"),
        environ=dict(stack.environ) | {"REMAP_SIGTERM": "SIGQUIT"},
    )
