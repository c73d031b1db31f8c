"""A download of three chunks that tests interrupt and resume."""

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

from click.testing import CliRunner, Result

from tests.support.fakes.fake_service import Action
from valetkey.cli import journal
from valetkey.cli.main import main
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS

ROWS = 3 * DEFAULT_CHUNK_ITEMS
KEYS = [f"acme/{n}" for n in range(ROWS)]
_ARGUMENTS = ("download", "demo", "--from", "keys.txt", "--out", "links.csv")
DOWNLOAD = (*_ARGUMENTS, "--timeout", "60s")
DOWNLOAD_SHORT_TIMEOUT = (*_ARGUMENTS, "--timeout", "2s")  # for a response that never comes
RESUME_DOWNLOAD = (*DOWNLOAD, "--resume")
TWO_CHUNKS_WRITTEN = f"{2 * DEFAULT_CHUNK_ITEMS:,} of {ROWS:,} rows are in links.csv.partial"
Plan = Callable[[dict[str, Any], int], Action]


def write_keys(keys: list[str]) -> None:
    """Write the input file, one key a line."""
    Path("keys.txt").write_text("".join(f"{key}\n" for key in keys))


def run_cli(*words: str, stdin: str | bytes = "") -> Result:
    """Run a command in this process, so that a test can interrupt it with Ctrl-C."""
    gc.disable()  # Hypothesis listens to collections, and Ctrl-C would be lost within its listener
    try:
        with catch_warnings():
            # Ctrl-C while a file is being opened leaves that file to the end of a real process.
            simplefilter("ignore", ResourceWarning)
            return CliRunner().invoke(main, words, input=stdin)
    finally:
        gc.enable()


def lose_chunk(number: int) -> Plan:
    """Return the plan of a service that loses the chunk with this number."""
    return lambda message, _: "lose" if message.get("chunk") == number else "answer"


def interrupt_chunk(number: int) -> Plan:
    """Return a plan that presses Ctrl-C when the chunk arrives, and loses that chunk."""

    def interrupt(message: dict[str, Any], _: int) -> Action:
        if message["chunk"] != number:
            return "answer"
        os.kill(os.getpid(), signal.SIGINT)
        return "lose"

    return interrupt


def start_download(*arguments: str, stderr: int | None = None) -> subprocess.Popen[str]:
    """Run a command in its own process."""
    program = "from valetkey.cli.main import main; main()"
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, stderr=stderr, text=True)


def journal_rows() -> int:
    """Return how many rows of links.csv are complete according to its journal."""
    run_journal = journal.load_journal(Path("links.csv"))
    return 0 if run_journal is None else run_journal.checkpoint.rows
