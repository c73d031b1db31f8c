"""Names of this installation's programs, for commands that a user pastes into a shell."""

import os
import shlex
import shutil
import sys
from pathlib import Path


def program_command(name: str) -> str:
    """Return the shell word that starts a program which is installed beside this Python.

    It is the plain name if the shell's PATH leads to that program, and otherwise its path: from the
    working folder if it is below it. Without such a program it is the plain name.
    """
    path = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    # Not resolved: the python of a virtual environment is a link to another one.
    if not path.exists() or (found and Path(os.path.abspath(found)) == path):  # noqa: PTH100
        return name
    below = path.is_relative_to(Path.cwd())
    return shlex.quote(str(path.relative_to(Path.cwd()) if below else path))
