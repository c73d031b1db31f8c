import os
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from valetkey.cli.commands.command_base import extract_grant_options
from valetkey.cli.main import main

ROOT = Path(__file__).parents[3]
BATCH = "0199a000-0000-7000-8000-000000000000"
UNREACHABLE = "redis://:s3cret@127.0.0.1:1/0"  # nothing listens on port 1


@pytest.fixture(autouse=True)
def _clear_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("VALETKEY_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALETKEY_BROKER_URL", UNREACHABLE)
    monkeypatch.setenv("VALETKEY_TENANT", "acme")


def run_cli(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_help_lists_the_exit_codes() -> None:
    text = " ".join(run_cli("--help").stdout.split())
    codes = "0 everything was granted 1 the request or an item was refused "
    codes += "2 wrong usage, configuration or input file "
    codes += "3 no response in time, or none that this release can read "
    codes += "4 an object was not stored 5 the output could not be written "
    codes += "6 a grant of the output has expired, or has too little time left (see --min-left) "
    codes += "130 interrupted"
    assert codes in text


@pytest.mark.parametrize(
    "command",
    [
        *("presign", "download", "upload", "put", "multipart"),
        *("usage", "service", "cancel", "keygen"),
    ],
)
def test_each_command_shows_examples(command: str) -> None:
    assert f"\n  valetkey {command} " in run_cli(command, "--help").stdout


def test_the_version_is_the_installed_one() -> None:
    assert run_cli("--version").stdout == f"valetkey, version {version('valetkey')}\n"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("download reports", "give KEY or --from FILE, and not both"),
        ("download reports a --from -", "give KEY or --from FILE, and not both"),
        ("download reports --from keys --out ./keys", "the file of --from"),
        ("download reports a --strict", "--strict needs --from"),
        ("download reports a --format csv", "--format needs --from"),
        ("download reports a --ignore-columns b", "--ignore-columns needs --from"),
        ("download reports a --resume --out x", "--resume needs the --from"),
        ("download reports --from - --resume", "--resume needs the --from"),
        ("download reports --from - --out x --resume --force", "--resume keeps what --out has"),
        ("download reports --from x.csv.partial --out x.csv", "file of --from"),
        ("download reports a --force", "--force needs --out or --manifest"),
        ("download reports a --copy-columns b", "--copy-columns needs --from"),
        ("download reports a --out /dev/null", "/dev/null: not a regular file"),
        ("download reports --from - --version-id 1", "--version-id applies to a single KEY"),
        ("put inbox --from - --sha256", "--sha256 applies to a single KEY"),
        ("download reports --from missing.csv", "'missing.csv' does not exist"),
        ("download reports --from -", "stdin has no rows"),
        ("upload inbox a", "Missing option '--max-size'"),
        ("upload inbox a.png --max-size 5MB --meta a", "'a' is not NAME=VALUE"),
        ("upload inbox a --max-size 5MB --checksum md5:AA==", "a checksum is sha256, crc32"),
        ("download reports a b --version-id 1", "--version-id applies to a single KEY"),
        ("put inbox a", "give --size or --file, and not both"),
        ("put inbox a --size 1 --sha256", "--sha256 needs --file"),
        ("multipart inbox a --file keys --curl", "--file prints only the grant's id"),
        ("multipart inbox a", "give --file or --size, and not both"),
        ("download reports a --dry-run --csv", "prints only rules"),
        ("download reports a --dry-run --out x", "prints only rules"),
        ("cancel 0199", "a batch id is a UUID of version 7"),
        ("download reports a --json --csv", "--json and --csv exclude each other"),
        ("upload inbox a --max-size 0", "'--max-size': must be from 1 byte to 5 GiB (5,368,709,"),
        ("upload inbox a --max-size 5TiB", "'--max-size': must be from 1 byte to 5 GiB (5,"),
        ("put inbox a --size 6GiB", "'--size': must be from 0 bytes to 5 GiB"),
        ("usage --timeout 0s", "'--timeout': must be at least 1 second, not 0 seconds"),
        ("download reports a --expires-in 0", "'--expires-in': must be from 1 second to 7 days, "),
        ("download reports a --expires-in 8d", "from 1 second to 7 days, not 8 days"),
        ("download reports a --expires-in -5", "'--expires-in': a duration is a"),
        ("download reports a --min-expires-in 0", "'--min-expires-in': must be"),
        ("download reports a --reason ''", "'--reason': must not be empty"),
        ("download reports a --filename ''", "'--filename': must not be empty"),
        ("download reports a --requested-by ''", "'--requested-by': must not be empty"),
        ("usage --tenant ''", "'--tenant': a name has up to 63 characters"),
        ("download reports --from keys --version-id ''", "'--version-id': must not be empty"),
        ("put inbox --from keys --size 0", "--size applies to a single KEY"),
        ("download reports --from keys --out x --resume", "x.resume.json does not exist"),
        ("download reports a --manifest m", "--manifest needs --from"),
        ("download reports --from keys --manifest m --out x", "--manifest prints only a link"),
        ("download reports --from keys --manifest m --csv", "--manifest prints only a link"),
        ("upload inbox a --max-size 5 --wait --dry-run", "--wait"),
        ("upload inbox --max-size 5 --wait --from -", "--wait"),
        *(
            (f"{command} '{name}'", "UUID of version 7")
            for command in ("status", "reissue")
            for name in ("", "x", "1.2", *(f"{BATCH}.{number}" for number in ("", "01", "x")))
        ),
    ],
)
@pytest.mark.usefixtures("configured")
def test_wrong_usage_is_exit_2_and_names_the_cause(arguments: str, error: str) -> None:
    Path("keys").write_text("acme/a\n")
    Path("x.csv.partial").write_text("acme/a\n")
    result = run_cli(*shlex.split(arguments))
    assert (result.exit_code, result.stdout) == (2, "")
    assert error in result.stderr
    assert Path("keys").read_text() == "acme/a\n"


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        ("multipart inbox a --size 6TiB", "must be at most 5 TiB (5,497,558,138,880 bytes)\n"),
        ("upload inbox a --max-size 5MB --min-size 6MB", "max_size, 4.8 MiB (5,000,000 bytes)\n"),
    ],
)
@pytest.mark.usefixtures("configured")
def test_impossible_sizes_are_refused_without_a_request(arguments: str, refusal: str) -> None:
    result = run_cli(*arguments.split())
    assert result.exit_code == 1
    assert "size_invalid in grant." in result.stderr
    assert result.stderr.endswith(refusal)


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize(
    "arguments",
    ["download reports a", "usage", "service", f"cancel {BATCH}"],
)
def test_a_broker_that_is_down_is_exit_3_without_its_password(arguments: str) -> None:
    result = run_cli(*arguments.split())
    assert (result.exit_code, result.stdout) == (3, "")
    where = "the broker at redis://127.0.0.1:1/0 (from VALETKEY_BROKER_URL)"
    assert f"cannot use {where}: connection refused" in result.stderr
    assert "s3cret" not in result.stderr


@pytest.mark.parametrize("name", ["expires_in", "max_size"])
def test_zero_is_an_option_that_was_given(name: str) -> None:
    options = {"expires_in": None, "max_size": None, "success_status": None, name: 0}
    assert extract_grant_options(options, "upload") == {name: 0}


def test_a_closed_stdout_is_an_output_that_cannot_be_written() -> None:
    command = (sys.executable, "-m", "worker", "contract", "envelope")
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    result = subprocess.run(shell, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (result.returncode, result.stderr) == (5, "Error: stdout: Bad file descriptor\n")
