"""Processes that issue grants concurrently, as workers do, each with its own connections."""

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
from tests.support.servers.databases import open_engine
from worker.aws.s3_clients import S3Clients


class ChunkResult(NamedTuple):
    """One chunk's result: the refusal code, the number of grants, and a digest of the items."""

    batch: str
    chunk: int
    refusal: str | None
    granted: int
    digest: str


class _ProcessState:
    start: Barrier
    s3: S3Clients


class WorkerProcesses:
    """A pool of worker processes."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def issue(self, url: str, messages: Sequence[Sequence[dict[str, Any]]]) -> list[ChunkResult]:
        """Let each process issue one list of messages in order, all starting at the same moment."""
        results = self._pool.map(_issue_all, [url] * len(messages), messages)
        return [result for process_results in results for result in process_results]


@contextmanager
def worker_processes(count: int) -> Iterator[WorkerProcesses]:
    """Start this number of processes."""
    spawn = get_context("spawn")
    barriers = (spawn.Barrier(count),)
    with ProcessPoolExecutor(count, spawn, initializer=_initialize, initargs=barriers) as pool:
        yield WorkerProcesses(pool)


def _initialize(start: Barrier) -> None:
    _ProcessState.start, _ProcessState.s3 = start, S3Clients()


def _issue_all(url: str, messages: Sequence[dict[str, Any]]) -> list[ChunkResult]:
    with open_engine(url) as engine:
        service = services.build_service(engine, _ProcessState.s3, Clock())
        _ProcessState.start.wait()  # also makes each process take exactly one list
        return [_chunk_result(service.issue(message)) for message in messages]


def _chunk_result(outcome: dict[str, Any]) -> ChunkResult:
    granted = sum("code" not in item for item in outcome["items"])
    digest = sha256(json.dumps(outcome["items"]).encode()).hexdigest()
    return ChunkResult(
        outcome["batch"], outcome["chunk"], outcome.get("refusal", {}).get("code"), granted, digest
    )
