"""The rate of issuing: with trees and the key lookup, and beside millions of rows."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.comparison import Spread

ROUNDS = 9
CHUNKS = 20  # in each round
_PROGRAM = Path(__file__).with_name("issuing_process.py")
_CHECKOUT = Path(__file__).parents[2]


class Issuer:
    """A process that issues chunks with the code of a checkout."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def seconds(self, chunks: int) -> float:
        """Let it issue chunks, and return how long that took."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the process has no pipes")
        self._process.stdin.write(f"{chunks}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


@contextmanager
def running_issuer(url: str, checkout: Path = _CHECKOUT) -> Iterator[Issuer]:
    """Run a process that issues into a database, with the code of a checkout."""
    command = [sys.executable, "-W", "ignore", str(_PROGRAM), url]
    environ = dict(os.environ) | {"PYTHONPATH": str(checkout)}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=environ, cwd=checkout, stdin=pipe, stdout=pipe, text=True
    ) as process:
        try:
            yield Issuer(process)
        finally:
            process.terminate()


def compare_issuers(ours: Issuer, theirs: Issuer, rounds: int = ROUNDS) -> Spread:
    """Return the rate of ours relative to theirs, alternated."""
    for issuer in (ours, theirs):
        issuer.seconds(2)
    ratios = []
    for number in range(rounds):
        pair = (ours, theirs) if number % 2 else (theirs, ours)
        times = {id(issuer): issuer.seconds(CHUNKS) for issuer in pair}
        ratios.append(times[id(theirs)] / times[id(ours)])
    return Spread(ratios)
