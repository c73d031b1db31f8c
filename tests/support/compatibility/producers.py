"""Producers of one release, each a process that makes calls when it is told to."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.compatibility.releases import Release


class Producer:
    """A process with a release's client. See pythonpath/producer for its calls."""

    def __init__(self, release: Release, process: "subprocess.Popen[str]") -> None:
        self.release = release
        self._process = process

    def start(self, name: str, /, **arguments: Any) -> None:
        """Start a call without waiting for its result, which read() returns."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, arguments]) + "\n")
        self._process.stdin.flush()

    def read(self) -> Any:
        """Wait for the result of the call that was started first."""
        assert self._process.stdout is not None
        reply = json.loads(self._process.stdout.readline() or '{"error": "the producer ended"}')
        if "error" in reply:
            raise AssertionError(f"a call of the {self.release.name} client: {reply['error']}")
        return reply["result"]

    def call(self, name: str, /, **arguments: Any) -> Any:
        """Make a call and return its result."""
        self.start(name, **arguments)
        return self.read()


@contextmanager
def running_producer(release: Release, folder: Path) -> Iterator[Producer]:
    """Run a producer of a release until the block ends; its log is in the folder."""
    with (
        (folder / f"{release.name}-producer.log").open("a") as log,
        subprocess.Popen(
            [sys.executable, "-P", "-m", "producer"],
            cwd=folder,
            env=release.environ({"HOME": str(folder)}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            yield Producer(release, process)
        finally:
            process.kill()


def start_command(
    release: Release, folder: Path, environ: Mapping[str, str], *arguments: str
) -> "subprocess.Popen[str]":
    """Start a command of valetkey in a process of its own, with pipes for stdout and stderr."""
    program = "from valetkey.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-P", "-c", program, *arguments],
        cwd=folder,
        env=release.environ(environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
