"""Releases of the project as trees, which processes import through PYTHONPATH."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import redis

from worker.broker.heartbeats import read_heartbeats
from worker.devstack.processes import ChildProcess, Program, StartFailed, running
from worker.devstack.stack_info import service_environment

CHECKOUT = Path(__file__).parents[3]
_PYTHONPATH = Path(__file__).parent / "pythonpath"
_RUN_COMMANDS = """
import json, sys
from worker.__main__ import main
for arguments in json.loads(sys.argv[1]):
    main(arguments, standalone_mode=False)
"""


class Import(NamedTuple):
    """An import of one of the project's packages by a process, and the file that it found."""

    pid: int
    package: str
    origin: str


@dataclass(frozen=True)
class Release:
    """A tree with the packages of one release. record has the imports of its processes."""

    name: str
    folder: Path
    record: Path

    def environ(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a process of this release."""
        return service_environment(
            os.environ,
            **settings,
            PYTHONPATH=f"{_PYTHONPATH}{os.pathsep}{self.folder}",
            VALETKEY_TEST_RELEASE=str(self.folder),
            VALETKEY_TEST_IMPORTS=str(self.record),
        )

    def imports(self) -> list[Import]:
        """Return what its processes have imported so far."""
        lines = self.record.read_text(encoding="utf-8").splitlines()
        return [Import(*json.loads(line)) for line in lines]

    def run(self, settings: Mapping[str, str], *commands: tuple[str, ...]) -> None:
        """Run commands of `python -m worker`, in one process. Raises StartFailed."""
        completed = subprocess.run(
            [sys.executable, "-c", _RUN_COMMANDS, json.dumps(commands)],
            cwd=self.folder,
            env=self.environ(settings),
            capture_output=True,
            text=True,
            check=False,
        )
        if completed.returncode:
            raise StartFailed(f"{commands} of {self.name}: {completed.stderr}")

    @contextmanager
    def running_worker(
        self, settings: Mapping[str, str], log: Path, *options: str
    ) -> Iterator[ChildProcess]:
        """Run `python -m worker run` until the block ends; its log is appended to a file."""
        command = (sys.executable, "-m", "worker", "run", *options)
        program = Program(f"{self.name} worker", command, self.folder, log, self.environ(settings))
        roles = 1 if "--only" in options else 2

        def is_ready(child: ChildProcess) -> bool:
            with redis.Redis.from_url(settings["VALETKEY_RESULT_URL"]) as client:
                supervisors = [heartbeat.supervisor for heartbeat in read_heartbeats(client)]
            return supervisors.count(child.pid) == roles

        with running(program, is_ready, ready_timeout=60, stop_timeout=20) as child:
            yield child


def kill_worker(worker: ChildProcess) -> None:
    """Kill a worker that nobody needs any more: an orderly stop takes seconds."""
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)


def current_release(folder: Path) -> Release:
    """Return the checkout as a release; the folder is for the record of imports."""
    return Release("current", CHECKOUT, folder / "current.imports")
