"""The same download, of three chunks, for tests to interrupt and to go on with."""

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

from tests.support.fakes.fake_service import Act
from valetkey.cli.bulk import journal
from valetkey.cli.main import main
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS

ROWS = 3 * DEFAULT_CHUNK_ITEMS
KEYS = [f"acme/{n}" for n in range(ROWS)]
_WORDS = ("download", "demo", "--from", "keys.txt", "--out", "links.csv")
DOWNLOAD = (*_WORDS, "--timeout", "2s")  # where an answer is lost, it is waited for to the end
PATIENT = (*_WORDS, "--timeout", "60s")  # where none is
RESUMED = (*PATIENT, "--resume")
LEFT = f"{2 * DEFAULT_CHUNK_ITEMS:,} of {ROWS:,} rows are in links.csv.partial"


def written_keys(keys: list[str]) -> None:
    """Write what is asked for, a key a line."""
    Path("keys.txt").write_text("".join(f"{key}\n" for key in keys))


def run_cli(*words: str) -> Result:
    """Run a command in this process, where Ctrl-C may be pressed while it runs."""
    gc.disable()  # Hypothesis listens to collections, and Ctrl-C would be lost within its listener
    try:
        return CliRunner().invoke(main, words)
    finally:
        gc.enable()


def lose_after(last: int) -> Callable[[dict[str, Any], int], Act]:
    """A service that answers all chunks but the one of this number."""
    return lambda message, _: "lose" if message["chunk"] == last else "answer"


def interrupt(message: dict[str, Any], _: int) -> Act:
    """A service that answers all chunks but the third, at which Ctrl-C is pressed."""
    if message["chunk"] != 2:
        return "answer"
    os.kill(os.getpid(), signal.SIGINT)
    return "lose"


def start_download(*words: str, stderr: int | None = None) -> subprocess.Popen[str]:
    """Run a command in a process of its own."""
    command = [sys.executable, "-c", "from valetkey.cli import main; main()", *words]
    return subprocess.Popen(command, stderr=stderr, text=True)


def journal_rows() -> int:
    """How many rows of links.csv are whole, as its journal says."""
    run = journal.load_journal(Path("links.csv"))
    return 0 if run is None else run.mark.rows


def read_csv(name: str) -> list[dict[str, str]]:
    with Path(name).open(newline="") as stream:
        return list(csv.DictReader(stream))
