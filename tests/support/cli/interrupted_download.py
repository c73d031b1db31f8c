"""A download of three chunks that tests interrupt and resume."""

import csv
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from tests.support.fakes.fake_service import Action, running_fake_service
from valetkey.cli.bulk import journal
from valetkey.cli.main import main
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS

ROWS = 3 * DEFAULT_CHUNK_ITEMS
KEYS = [f"acme/{n}" for n in range(ROWS)]
_ARGUMENTS = ("download", "demo", "--from", "keys.txt", "--out", "links.csv")
DOWNLOAD = (*_ARGUMENTS, "--timeout", "60s")
DOWNLOAD_SHORT_TIMEOUT = (*_ARGUMENTS, "--timeout", "2s")  # for a response that never comes
RESUME_DOWNLOAD = (*DOWNLOAD, "--resume")
TWO_CHUNKS_WRITTEN = f"{2 * DEFAULT_CHUNK_ITEMS:,} of {ROWS:,} rows are in links.csv.partial"


def write_keys(keys: list[str]) -> None:
    """Write the input file, one key a line."""
    Path("keys.txt").write_text("".join(f"{key}\n" for key in keys))


def run_cli(*arguments: str) -> Result:
    """Run a command in this process, so that a test can interrupt it with Ctrl-C."""
    gc.disable()  # Hypothesis listens to collections, and Ctrl-C would be lost within its listener
    try:
        return CliRunner().invoke(main, arguments)
    finally:
        gc.enable()


def assert_nothing_is_requested(broker: str, *arguments: str) -> Result:
    """Run a command that sends no request, and return its result."""
    with running_fake_service(broker) as service:
        result = run_cli(*arguments)
    assert service.received == []
    return result


def lose_chunk(number: int) -> Callable[[dict[str, Any], int], Action]:
    """Return the plan of a service that loses the chunk with this number."""
    return lambda message, _: "lose" if message["chunk"] == number else "answer"


def interrupt_third_chunk(message: dict[str, Any], _: int) -> Action:
    """Press Ctrl-C when the third chunk arrives, and lose that chunk."""
    if message["chunk"] != 2:
        return "answer"
    os.kill(os.getpid(), signal.SIGINT)
    return "lose"


def start_download(*arguments: str, stderr: int | None = None) -> subprocess.Popen[str]:
    """Run a command in its own process."""
    program = "from valetkey.cli.main import main; main()"
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, stderr=stderr, text=True)


def journal_rows() -> int:
    """Return how many rows of links.csv are complete according to its journal."""
    run_journal = journal.load_journal(Path("links.csv"))
    return 0 if run_journal is None else run_journal.checkpoint.rows


def read_csv(file_name: str) -> list[dict[str, str]]:
    with Path(file_name).open(newline="") as stream:
        return list(csv.DictReader(stream))
