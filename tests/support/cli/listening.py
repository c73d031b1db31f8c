"""Runs `valetkey webhooks listen` in a process of its own."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.servers.waiting import wait_until

VALETKEY = str(Path(sys.executable).with_name("valetkey"))


class ListenProcess:
    """A running `listen`, and what it has printed."""

    def __init__(self, process: "subprocess.Popen[bytes]", out: Path, err: Path) -> None:
        self._process, self._out, self._err = process, out, err

    @property
    def lines(self) -> list[str]:
        """The complete lines of stdout."""
        return self._out.read_text().splitlines()

    @property
    def messages(self) -> str:
        """The text of stderr."""
        return self._err.read_text()

    def wait_for(self, text: str, count: int = 1) -> None:
        """Wait until a text was printed so often, on stdout or stderr."""
        try:
            wait_until(lambda: (self._out.read_text() + self.messages).count(text) >= count)
        except AssertionError:
            printed = self._out.read_text() + self.messages
            raise AssertionError(f"not {text!r}, but {printed}") from None

    def interrupt(self) -> int:
        """End it with Ctrl-C; return its exit code."""
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(20)


@contextmanager
def listening(
    folder: Path, environ: Mapping[str, str], *options: str, name: str = "listen"
) -> Iterator[ListenProcess]:
    """Run `listen` until the end of the block, which begins when it has heard the service."""
    out, err = folder / f"{name}.out", folder / f"{name}.err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        command = [VALETKEY, "webhooks", "listen", *options]
        process = subprocess.Popen(
            command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
        )
    with process:
        listen = ListenProcess(process, out, err)
        try:
            listen.wait_for("listening: ")
            yield listen
        finally:
            process.kill()
