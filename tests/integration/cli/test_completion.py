"""Shell completion, as docs/producers.md sets it up, in a real bash."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
# Bash calls the function that `complete` registered with the words and the position of the cursor.
PRESS_TAB = """
eval "$(_VALETKEY_COMPLETE=bash_source valetkey)"
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
$(complete -p valetkey | sed 's/.*-F \\([^ ]*\\) .*/\\1/') valetkey "${@: -1}" "${@: -2:1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completions(*words: str) -> list[str]:
    """Return the words that bash offers after Tab is pressed at the end of the last word."""
    bash = shutil.which("bash")
    assert bash is not None
    environ = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    command = [bash, "-c", PRESS_TAB, "bash", *words]
    shell = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
    assert shell.stderr == ""
    return shell.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("valetkey", "pre"), ["presign"]),
        (("valetkey", "presign", "--exp"), ["--expires-in"]),
        (("valetkey", "presign", "s3://demo/a", "--exp"), ["--expires-in"]),
        (("valetkey", "presign", "demo", "a", "--exp"), ["--expires-in"]),
        (("valetkey", "download", "demo", "--from", "a", "--format", "l"), ["lines"]),
    ],
)
def test_bash_completes_commands_options_and_choices(
    words: tuple[str, ...], expected: list[str]
) -> None:
    assert completions(*words) == expected
