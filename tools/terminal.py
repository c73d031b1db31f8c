"""Runs a program in a terminal of a fixed size, and returns what the terminal shows at its end."""

import os
import pty
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_NAMES = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
_SEQUENCES = re.compile(r"\x1b\[[?\d;]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+")
_UP = re.compile(r"\x1b\[(\d*)A")


class ProgramFailed(Exception):
    """The program ended with an exit code other than 0."""


def run_in_terminal(
    command: Sequence[str],
    environ: Mapping[str, str],
    *,
    columns: int = 80,
    cwd: Path | None = None,
) -> list[str]:
    """Return the lines on the terminal, with the escape sequences of their colours.

    Raises ProgramFailed.
    """
    leader, follower = pty.openpty()
    size = {"COLUMNS": str(columns), "LINES": "50"}
    with subprocess.Popen(
        command, env={**environ, **_NAMES, **size}, stdout=follower, stderr=follower, cwd=cwd
    ) as process:
        os.close(follower)
        output = _read_all(leader)
    lines = screen_lines(output.decode())
    if process.returncode != 0:
        raise ProgramFailed("\n".join(lines))
    return lines


def _read_all(leader: int) -> bytes:
    output = b""
    try:
        while part := os.read(leader, 65_536):
            output += part
    except OSError:  # Linux reports the end like this: nobody has the terminal open any more
        pass
    finally:
        os.close(leader)
    return output


def screen_lines(output: str) -> list[str]:
    """Return the lines of a terminal after this output, in which progress bars redraw lines.

    Knows the sequences that Rich sends: the cursor goes up, and a line is erased.
    """
    lines, row = [""], 0
    for part in _SEQUENCES.findall(output):
        if part == "\n":
            row += 1
            lines += [""] * (row - len(lines) + 1)
        elif part == "\x1b[2K":
            lines[row] = ""
        elif up := _UP.fullmatch(part):
            row = max(row - int(up[1] or 1), 0)
        elif part.endswith("m") or not part.startswith(("\x1b", "\r")):
            lines[row] += part
    return lines
