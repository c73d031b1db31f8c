"""Bulk runs that are interrupted under one release and resumed under another."""

import json
import signal
import subprocess
from pathlib import Path

from tests.support.compatibility.producers import start_command
from tests.support.compatibility.releases import Release
from tests.support.compatibility.services import Service, tenant_of
from tests.support.servers.waiting import wait_until

KINDS = ("download", "upload", "put")
ROWS = 3_600  # six chunks
_OPTIONS = {"download": (), "upload": ("--max-size", "1000"), "put": ()}
_MAX_RUNS = 10


class BulkRun:
    """A run of one kind in a folder of its own."""

    def __init__(self, service: Service, kind: str, number: int = 0) -> None:
        self.kind = kind
        self._service = service
        self._folder = service.folder / f"bulk-{kind}-{number}"
        self._folder.mkdir()
        prefix = f"{tenant_of('signed')}/bulk/{kind}/{number}"
        self.keys = [f"{prefix}/{row}" for row in range(ROWS)]
        rows = "".join(f"{key},9\n" if kind == "put" else f"{key}\n" for key in self.keys)
        heading = "key,size\n" if kind == "put" else "key\n"
        (self._folder / "rows.csv").write_text(heading + rows)

    @property
    def completed_rows(self) -> int:
        """The number of rows in the output, by the journal of the run."""
        try:
            journal = json.loads((self._folder / "out.jsonl.resume.json").read_text())
        except FileNotFoundError:
            return 0
        return int(journal["checkpoint"][0])

    def start(self, release: Release, *options: str) -> "subprocess.Popen[str]":
        """Start the command of a release."""
        words = [self.kind, "demo", "--from", "rows.csv", "--out", "out.jsonl", "--timeout", "60s"]
        environ = self._service.command_environ("signed")
        all_words = (*words, *_OPTIONS[self.kind], *options)
        return start_command(release, self._folder, environ, *all_words)

    def interrupt(self, release: Release) -> bool:
        """Run it until a part of the rows is written, then press Ctrl-C; False if it was faster."""
        with self.start(release) as process:
            wait_until(lambda: self.completed_rows or process.poll() is not None, 60)
            process.send_signal(signal.SIGINT)
            process.communicate()
        return process.returncode == 130 and 0 < self.completed_rows < ROWS

    def resume(self, release: Release) -> tuple[int, list[dict[str, object]]]:
        """Complete it; return the exit code and the rows of the output."""
        with self.start(release, "--resume") as process:
            process.communicate()
        lines = Path(self._folder / "out.jsonl").read_text().splitlines()
        return process.returncode, [json.loads(line) for line in lines]


def interrupted_run(service: Service, kind: str, release: Release) -> BulkRun:
    """Return a run that was interrupted midway; a run that completes first is repeated."""
    for number in range(_MAX_RUNS):
        run = BulkRun(service, kind, number)
        if run.interrupt(release):
            return run
    raise AssertionError(f"{_MAX_RUNS} runs of {kind} were complete before they were interrupted")
