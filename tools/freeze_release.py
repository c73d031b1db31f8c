"""Freeze a commit as the previous release that tests/compatibility runs.

    python tools/freeze_release.py COMMIT

The same commit gives the same bytes: git writes the archive with the commit's time and id.
"""

import lzma
import subprocess
import sys
from pathlib import Path

FROZEN_PATHS = ("valetkey", "worker", "models", "celeryconfig.py")
_CHECKOUT = Path(__file__).parents[1]
ARCHIVE = _CHECKOUT / "tests" / "compatibility" / "previous.tar.xz"
_ARCHIVE_COMMAND = ("git", "-c", "tar.umask=0022", "archive", "--format=tar")


def freeze(commit: str) -> bytes:
    """Return the compressed archive of a commit. Raises CalledProcessError if there is none."""
    command = [*_ARCHIVE_COMMAND, f"{commit}^{{commit}}", *FROZEN_PATHS]
    tar = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=_CHECKOUT).stdout
    return lzma.compress(tar, preset=9)


def main(arguments: list[str]) -> int:
    """Write the archive of the commit in the arguments; return the exit code."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.stderr.write(__doc__ or "")
        return 2
    try:
        ARCHIVE.write_bytes(freeze(arguments[0]))
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    sys.stdout.write(f"{ARCHIVE} has {ARCHIVE.stat().st_size:,} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
