"""Measures the costs with one issuing process, and checks what the model says about two of them.

The two services have a database server each, and work in turns.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import NamedTuple

from sqlalchemy import Engine

from bench import service
from bench.capacity import redis_memory
from bench.capacity.costs import KINDS, Cost, Costs
from bench.capacity.meters import connections
from bench.capacity.model import predicted_per_second
from bench.capacity.traffic import Send, senders, timed
from bench.capacity.turns import MeteredTurns
from bench.comparison import Spread
from bench.metrics import Measurements
from worker.base.database_engine import create_database_engine
from worker.dev.stack import Stack

ROUNDS = 9
REQUESTS = {"single": 500, "company": 1_024, "chunk": 30}
"""The requests of each kind in a round."""
_PROCESSES = 2  # that the model is checked with


class _Service(NamedTuple):
    stack: Stack
    engine: Engine
    sends: Mapping[str, Send]


def measure(rounds: int = ROUNDS, requests: Mapping[str, int] = REQUESTS) -> Measurements:
    """Measure both databases."""
    return _measure("sqlite", rounds, requests) | _measure("postgres", rounds, requests)


def _measure(database: str, rounds: int, requests: Mapping[str, int]) -> Measurements:
    measurements: Measurements = {}
    kinds: dict[str, Cost] = {}
    with _running(database, 1) as one, _running(database, _PROCESSES) as two:
        for kind in KINDS:
            count, send = requests[kind], two.sends[kind]
            turns = MeteredTurns(one.stack, one.engine, one.sends[kind], count)
            rates = [(turns.take(), count / timed(send, count).seconds) for _ in range(rounds)]
            kinds[kind] = turns.cost()
            for name, value in _check(kinds[kind], rates, one_writer=database == "sqlite").items():
                measurements[f"capacity_{database}_{kind}_{name}"] = value
        # Last, because messages that wait are sent again, and then leave more results.
        waiting = redis_memory.message_bytes(one.stack)
        # What runs beside the issuing processes has connections too.
        each = (connections(two.engine) - connections(one.engine)) / (_PROCESSES - 1)
    kinds = {kind: replace(cost, message_bytes=waiting[kind]) for kind, cost in kinds.items()}
    return Costs(database, kinds, each).named() | measurements


def _check(cost: Cost, rates: list[tuple[float, float]], *, one_writer: bool) -> Measurements:
    """Compare the rate of two processes with what the rate of one in the same round predicts."""
    cores = os.cpu_count() or 1
    predicted = [
        predicted_per_second(
            replace(cost, per_second=one), _PROCESSES, cores, one_writer=one_writer
        )
        for one, _ in rates
    ]
    measured = [two for _, two in rates]
    return {
        "two_per_second": Spread(measured),
        "predicted_per_second": Spread(predicted),
        "predicted_vs_measured": Spread(
            ours / theirs for ours, theirs in zip(predicted, measured, strict=True)
        ),
    }


@contextmanager
def _running(database: str, workers: int) -> Iterator[_Service]:
    with ExitStack() as exits:
        server = service.durable_postgres() if database == "postgres" else nullcontext(None)
        url = exits.enter_context(server)
        stack = exits.enter_context(service.running_service(url, workers=workers))
        sends = exits.enter_context(senders(stack))
        for send in sends.values():
            send(10 * workers)  # warm up connections, credentials and imports
        service.analyze_tables(stack)
        engine = create_database_engine(stack.info.database_url)
        exits.callback(engine.dispose)
        yield _Service(stack, engine, sends)
