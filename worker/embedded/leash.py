"""Becomes another program that ends when the process which started it ends, however that ends.

Run by path: `python leash.py PARENT COMMAND...`. Only Linux offers this (prctl(2)); elsewhere a
killed parent leaves its servers behind, and the lock they inherit keeps their data folder closed.
The signal comes at the end of the thread that started the child: start children from the main one.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Ask for the signal and become the command, unless the parent is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == parent:
        os.execv(command[0], command)  # noqa: S606 - to become the command is the point


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
