"""Releases of the project as trees, and the processes that import them through PYTHONPATH."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from worker.broker.queues import read_heartbeats
from worker.dev.child_processes import ChildProcess, Program, running
from worker.dev.data_folder import service_environment

CHECKOUT = Path(__file__).parents[3]
PACKAGES = ("valetkey", "worker", "models", "celeryconfig")
_PYTHONPATH = Path(__file__).parent / "pythonpath"
_RUN_COMMANDS = """
import json, sys
from worker.__main__ import main
for arguments in json.loads(sys.argv[1]):
    main(arguments, standalone_mode=False)
"""
_PRINT_ORIGINS = (
    f"import {', '.join(PACKAGES)}; print({', '.join(f'{p}.__file__' for p in PACKAGES)})"
)


class Producer:
    """A process with a release's clients. See pythonpath/producer for its calls."""

    def __init__(self, release: str, process: "subprocess.Popen[str]") -> None:
        self._release = release
        self._process = process

    def call(self, name: str, client: Mapping[str, Any], **arguments: Any) -> Any:
        """Make a call of a client with these options, and return its result."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, client, arguments]) + "\n")
        self._process.stdin.flush()
        reply = json.loads(self._process.stdout.readline() or '{"error": "the producer ended"}')
        if "error" in reply:
            raise AssertionError(f"a call of the {self._release} client: {reply['error']}")
        return reply["result"]


@dataclass(frozen=True)
class Release:
    """A tree with the packages of one release, which comes first in the path of its processes."""

    name: str
    folder: Path

    def environ(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a process of this release."""
        path = f"{_PYTHONPATH}{os.pathsep}{self.folder}"
        return service_environment(os.environ, **settings, PYTHONPATH=path)

    def origins(self) -> list[str]:
        """Return the files of the project's packages that its processes import."""
        return self._run({}, _PRINT_ORIGINS).split()

    def run(self, settings: Mapping[str, str], *commands: tuple[str, ...]) -> None:
        """Run commands of `python -m worker`, in one process."""
        self._run(settings, _RUN_COMMANDS, json.dumps(commands))

    def _run(self, settings: Mapping[str, str], program: str, *arguments: str) -> str:
        completed = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=self.folder,
            env=self.environ(settings),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return completed.stdout

    @contextmanager
    def running_worker(
        self, settings: Mapping[str, str], log: Path, *options: str
    ) -> Iterator[None]:
        """Run `python -m worker run` until the block ends, and kill it: its stop takes seconds.

        Its log is appended to a file.
        """
        command = (sys.executable, "-m", "worker", "run", *options)
        program = Program(f"{self.name} worker", command, self.folder, log, self.environ(settings))
        roles = 1 if "--only" in options else 2

        def is_ready(child: ChildProcess) -> bool:
            with redis.Redis.from_url(settings["VALETKEY_RESULT_URL"]) as client:
                supervisors = [heartbeat.supervisor for heartbeat in read_heartbeats(client)]
            return supervisors.count(child.pid) == roles

        with running(program, is_ready, ready_timeout=60, stop_timeout=20) as worker:
            yield
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)

    @contextmanager
    def running_producer(self, folder: Path) -> Iterator[Producer]:
        """Run a producer until the block ends; its log is in the folder."""
        with (
            (folder / f"{self.name}-producer.log").open("a") as log,
            self._start({"HOME": str(folder)}, folder, "-m", "producer", stderr=log) as process,
        ):
            try:
                yield Producer(self.name, process)
            finally:
                process.kill()

    def start_command(
        self, folder: Path, settings: Mapping[str, str], *arguments: str
    ) -> "subprocess.Popen[str]":
        """Start a command of valetkey in a process of its own, with pipes for stdout and stderr."""
        program = "from valetkey.cli.main import main; main()"
        return self._start(settings, folder, "-c", program, *arguments, stderr=subprocess.PIPE)

    def _start(
        self, settings: Mapping[str, str], folder: Path, *words: str, stderr: Any
    ) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-P", *words],
            cwd=folder,
            env=self.environ(settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
