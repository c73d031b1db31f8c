"""Processes that answer messages at once, as workers do, each with connections of its own."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from typing import Any, NamedTuple

from tests import issuing
from tests.requests import Clock
from worker.adapters.database import connect
from worker.adapters.s3 import S3


class Answered(NamedTuple):
    """What was said to a chunk: its refusal, how many items it was granted, and their digest."""

    batch: str
    chunk: int
    refusal: str | None
    granted: int
    digest: str


class _Process:
    start: Barrier
    s3: S3


class Workers:
    """So many processes."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def answer(self, url: str, messages: Sequence[Sequence[dict[str, Any]]]) -> list[Answered]:
        """Have each process answer a list in order, all of them from the same moment on."""
        answers = self._pool.map(_answer, [url] * len(messages), messages)
        return [one for some in answers for one in some]


@contextmanager
def workers(count: int) -> Iterator[Workers]:
    """Start that many processes."""
    spawning = get_context("spawn")
    start = (spawning.Barrier(count),)
    with ProcessPoolExecutor(count, spawning, initializer=_begin, initargs=start) as pool:
        yield Workers(pool)


def _begin(start: Barrier) -> None:
    _Process.start, _Process.s3 = start, S3()


def _answer(url: str, messages: Sequence[dict[str, Any]]) -> list[Answered]:
    engine = connect(url)
    answering = issuing.issuer(engine, _Process.s3, Clock())
    _Process.start.wait()  # so each process takes one list, too
    answers = [_answered(answering.issue(message)) for message in messages]
    engine.dispose()
    return answers


def _answered(said: dict[str, Any]) -> Answered:
    granted = sum("code" not in item for item in said["items"])
    digest = sha256(json.dumps(said["items"]).encode()).hexdigest()
    return Answered(
        said["batch"], said["chunk"], said.get("refusal", {}).get("code"), granted, digest
    )
