"""How long one link takes, and how many come in a second, against a task that does nothing."""

import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bench import noop, service
from bench.comparing import compared, in_turns, seconds
from bench.figures import Measured
from valetkey import Client
from worker.devstack.processes import Program, running
from worker.devstack.stack import Stack

ROUNDS = 7
_ALONE = 200  # a round, one after the other
_TOGETHER = 1_000  # a round, so many of them under way:
_UNDER_WAY = 32
_PATIENCE = 30  # seconds

Wait = Callable[[], object]
Ask = Callable[[], Wait]
"""Ask for one; what is returned waits for the answer."""


def measure() -> Measured:
    """Latency, then rate, each in turns with the no-op's."""
    with service.running() as up, _noops(up) as theirs, service.client(up) as client:
        ours = asking(client)
        for ask in (ours, theirs):
            latency(ask)  # connections and imports, on both sides
        taken = compared(in_turns(lambda: latency(ours), lambda: latency(theirs), ROUNDS))
        rate = compared(in_turns(lambda: _rate(ours), lambda: _rate(theirs), ROUNDS))
    return {
        "single_latency_vs_noop": 1 / taken.ratio,
        "single_rate_vs_noop": 1 / rate.ratio,
        "single_latency_ms": taken.ours * 1e3,
        "noop_latency_ms": taken.theirs * 1e3,
        "singles_per_second": rate.ours,
        "noops_per_second": rate.theirs,
    }


def asking(client: Client) -> Ask:
    """Ask a client for one link."""
    return lambda: client.download(service.BUCKET, "2026/11/u-1.pdf").result


def latency(ask: Ask) -> float:
    """How long one takes, in seconds: the median of a round, one after the other."""
    return median(seconds(partial(_one, ask)) for _ in range(_ALONE))


def _one(ask: Ask) -> None:
    wait = ask()
    wait()


def _rate(ask: Ask) -> float:
    return _TOGETHER / seconds(lambda: _together(ask))


def _together(ask: Ask) -> None:
    under_way: deque[Wait] = deque()
    for _ in range(_TOGETHER):
        if len(under_way) == _UNDER_WAY:
            under_way.popleft()()
        under_way.append(ask())
    for wait in under_way:
        wait()


@contextmanager
def _noops(up: Stack) -> Iterator[Ask]:
    app = noop.application(up.running.broker_url, up.running.result_url)
    with running(_program(up), lambda _: _answers(app)):
        yield lambda: _asked(app)


def _asked(app: Any) -> Wait:
    result = app.send_task(noop.TASK, queue=noop.QUEUE)
    return lambda: result.get(timeout=_PATIENCE)


def _answers(app: Any) -> bool:
    return bool(app.control.ping(destination=["noop@bench"], timeout=0.5))


def _program(up: Stack) -> Program:
    # As worker.commands.run starts the service's own.
    options = {"pool": "prefork", "concurrency": service.WORKERS, "loglevel": "INFO"}
    options |= {"queues": noop.QUEUE, "hostname": "noop@bench"}
    return Program(
        name="noop",
        command=(
            *(sys.executable, "-m", "celery", "-A", "bench.noop", "worker"),
            *("--without-gossip", "--without-mingle"),
            *(f"--{name}={value}" for name, value in options.items()),
        ),
        folder=Path(__file__).parents[1],
        log=Path(up.children[0].log).with_name("noop.log"),
        environ=dict(up.environ) | {"REMAP_SIGTERM": "SIGQUIT"},
    )
