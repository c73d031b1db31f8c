"""`doctor --live` that is interrupted: a real process, and a storage in memory."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Event

import pytest

from tests.support.cli.live_doctor import UseStorage
from tests.support.docs.command_lines import ROOT
from tests.support.fakes.http_storage import StorageResponse, StoredRequest, running_http_storage
from tests.support.fakes.memory_storage import MemoryStorage


@contextmanager
def interrupting(
    use_storage: UseStorage, memory: MemoryStorage, is_moment: Callable[[StoredRequest], bool]
) -> Iterator[subprocess.Popen[str]]:
    """Run the command in a process that gets SIGINT while a request of it is being answered."""
    started, deletion = Event(), Event()
    processes: list[subprocess.Popen[str]] = []
    interrupted: list[StoredRequest] = []

    def respond(request: StoredRequest) -> StorageResponse:
        started.wait()
        if is_moment(request) and not interrupted:
            interrupted.append(request)
            processes[0].send_signal(signal.SIGINT)
            # A slow storage: a deletion that does not wait for this request comes too early.
            deletion.wait(1)
        elif request.method == "DELETE":
            deletion.set()
        return memory(request)

    with running_http_storage(respond) as storage:
        use_storage(storage.url)
        with subprocess.Popen(
            [sys.executable, "-m", "worker", "doctor", "--live", "demo", "--yes"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            processes.append(process)
            started.set()
            yield process
    assert interrupted


MOMENTS: Mapping[str, Callable[[StoredRequest], bool]] = {
    "the first PUT": lambda request: request.method == "PUT",
    "the start of an upload": lambda request: "?uploads" in request.target,
    "the deletion": lambda request: request.method == "DELETE" and "/01.txt" in request.target,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_at_any_moment_leaves_nothing(use_storage: UseStorage, moment: str) -> None:
    memory = MemoryStorage()
    with interrupting(use_storage, memory, MOMENTS[moment]) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert (memory.objects, memory.uploads) == ({}, set())
    assert "Traceback" not in errors
    assert "Not deleted" not in errors
