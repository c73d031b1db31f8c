"""Processes that answer messages at once, as workers do, each with connections of its own."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from typing import Any, NamedTuple

from tests.support.builders import services
from tests.support.builders.messages import Clock
from worker.aws.clients import S3Clients
from worker.db.engine import create_database_engine


class WorkerAnswer(NamedTuple):
    """What was said to a chunk: its refusal, how many items it was granted, and their digest."""

    batch: str
    chunk: int
    refusal: str | None
    granted: int
    digest: str


class _Process:
    start: Barrier
    s3: S3Clients


class WorkerProcesses:
    """So many processes."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def answer(self, url: str, messages: Sequence[Sequence[dict[str, Any]]]) -> list[WorkerAnswer]:
        """Have each process answer a list in order, all of them from the same moment on."""
        answers = self._pool.map(_answer, [url] * len(messages), messages)
        return [one for some in answers for one in some]


@contextmanager
def worker_processes(count: int) -> Iterator[WorkerProcesses]:
    """Start that many processes."""
    spawning = get_context("spawn")
    start = (spawning.Barrier(count),)
    with ProcessPoolExecutor(count, spawning, initializer=_begin, initargs=start) as pool:
        yield WorkerProcesses(pool)


def _begin(start: Barrier) -> None:
    _Process.start, _Process.s3 = start, S3Clients()


def _answer(url: str, messages: Sequence[dict[str, Any]]) -> list[WorkerAnswer]:
    engine = create_database_engine(url)
    answering = services.build_service(engine, _Process.s3, Clock())
    _Process.start.wait()  # so each process takes one list, too
    answers = [_answered(answering.issue(message)) for message in messages]
    engine.dispose()
    return answers


def _answered(said: dict[str, Any]) -> WorkerAnswer:
    granted = sum("code" not in item for item in said["items"])
    digest = sha256(json.dumps(said["items"]).encode()).hexdigest()
    return WorkerAnswer(
        said["batch"], said["chunk"], said.get("refusal", {}).get("code"), granted, digest
    )
