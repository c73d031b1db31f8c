from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from valetkey.cli.main import main
from valetkey.crypto.keys import dump_private_key, generate_key

NOWHERE = "redis://:s3cret@127.0.0.1:1/0"  # no one listens on port 1
UPLOAD = ["upload", "inbox", "a.png", "--max-size"]


@pytest.fixture(autouse=True)
def _unconfigured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        "BROKER_URL",
        "RESULT_URL",
        "TENANT",
        "REQUESTED_BY",
        "DATA_DIR",
        "KEY",
        "KEY_FILE",
    ):
        monkeypatch.delenv(f"VALETKEY_{name}", raising=False)


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALETKEY_BROKER_URL", NOWHERE)
    monkeypatch.setenv("VALETKEY_TENANT", "acme")


def run(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def test_help_shows_the_commands_by_example() -> None:
    text = run("--help").stdout
    assert "  valetkey download reports 2026/11/u-1.pdf\n" in text
    assert "  valetkey upload inbox photos/cat.jpg --max-size 5MB --curl\n" in text


def test_help_says_what_exit_codes_mean() -> None:
    text = " ".join(run("--help").stdout.split())
    codes = "0 all issued, 1 something refused, 2 usage, 3 no answer in time, 4 not stored, "
    codes += "130 interrupted."
    assert codes in text


@pytest.mark.parametrize(
    "command", ["download", "upload", "put", "multipart", "usage", "cancel", "keygen"]
)
def test_each_command_teaches_by_example(command: str) -> None:
    assert f"\n  valetkey {command} " in run(command, "--help").stdout


def test_the_version_is_the_installed_one() -> None:
    assert run("--version").stdout == f"valetkey, version {version('valetkey')}\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["download", "reports"], "either KEY or --from FILE"),
        (["download", "reports", "a", "--from", "-"], "either KEY or --from FILE"),
        (["download", "reports", "a", "--strict"], "--strict goes with --from"),
        (["download", "reports", "a", "--format", "csv"], "--format goes with --from"),
        (["download", "reports", "a", "--ignore-columns", "b"], "--ignore-columns goes with"),
        (["download", "reports", "a", "--resume", "--out", "x"], "--resume goes with the --from"),
        (["download", "reports", "--from", "-", "--resume"], "--resume goes with the --from"),
        (["download", "reports", "--from", "-", "--version-id", "1"], "--version-id goes with one"),
        (["upload", "inbox", "--max-size", "5MB"], "either KEY or --from FILE"),
        (["put", "inbox", "--from", "-", "--sha256"], "--sha256 goes with one KEY"),
        (["put", "inbox", "--from", "-", "--size", "1"], "--size goes with one KEY"),
        (["put", "inbox", "--from", "-"], "each row must say its `size`"),
        (["download", "reports", "--from", "missing.csv"], "'missing.csv' does not exist"),
        (["download", "reports", "--from", "-"], "- names no objects"),
        (["download", "reports", "a\udcff"], "a key is UTF-8"),
        (["download", "reports", "a", "--expires-in", "1w"], "unknown unit 'w': use s, m, h or d"),
        (["upload", "inbox", "a"], "Missing option '--max-size'"),
        ([*UPLOAD, "5M"], "unknown unit 'M'"),
        ([*UPLOAD, "5MB", "--meta", "a"], "'a' is not NAME=VALUE"),
        ([*UPLOAD, "5MB", "--checksum", "md5:AA=="], "a checksum is sha256, crc32, crc32c or"),
        (["download", "reports", "a", "b", "--version-id", "1"], "goes with one KEY"),
        (["put", "inbox", "a"], "either --size or --file"),
        (["put", "inbox", "a", "--size", "1", "--sha256"], "computed from --file"),
        (["multipart", "inbox", "a"], "either --file or --size"),
        (["download", "reports", "a", "--dry-run", "--csv"], "only rules to print, perhaps as"),
        (["download", "reports", "a", "--dry-run", "--out", "x"], "only rules to print, perhaps"),
        (["cancel", "0199"], "a batch's id is a UUID of version 7"),
    ],
)
@pytest.mark.usefixtures("configured")
def test_wrong_usage_is_exit_2_and_says_what_is_right(words: list[str], complaint: str) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert complaint in result.stderr


def test_without_a_service_the_error_says_how_to_get_one() -> None:
    result = run("download", "reports", "a")
    assert result.exit_code == 2
    assert "python -m worker dev" in result.stderr


@pytest.mark.usefixtures("configured")
def test_a_broker_that_is_down_is_exit_3_without_its_password() -> None:
    result = run("download", "reports", "a")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "no result store answers at redis://127.0.0.1:1/1" in result.stderr
    assert "s3cret" not in result.stderr


@pytest.mark.usefixtures("configured")
def test_a_file_is_uploaded_whole_and_not_printed(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    result = run("multipart", "inbox", "a", "--file", "a", "--curl")
    assert result.exit_code == 2
    assert "nothing to print but the grant's id" in result.stderr


@pytest.mark.usefixtures("configured")
def test_a_size_no_object_can_have_is_refused_without_asking() -> None:
    result = run("put", "inbox", "a", "--size", "6GiB")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "size_invalid in grant.max_size" in result.stderr


@pytest.mark.usefixtures("configured")
def test_what_cannot_be_right_is_refused_without_asking() -> None:
    result = run(*UPLOAD, "5MB", "--min-size", "6MB")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "size_invalid in grant.min_size" in result.stderr
    assert "(limit: 5000000)" in result.stderr


def test_a_key_of_another_tenant_is_exit_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALETKEY_BROKER_URL", NOWHERE)
    monkeypatch.setenv("VALETKEY_KEY", dump_private_key(generate_key("acme/x")))
    result = run("usage", "--tenant", "globex")
    assert result.exit_code == 2
    assert "the key 'acme/x' speaks for 'acme', not for 'globex'" in result.stderr


def test_a_key_file_that_others_may_read_is_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALETKEY_BROKER_URL", NOWHERE)
    monkeypatch.setenv("VALETKEY_KEY_FILE", "acme.key")
    (tmp_path / "acme.key").write_text(dump_private_key(generate_key("acme/x")))
    (tmp_path / "acme.key").chmod(0o644)
    result = run("usage")
    assert result.exit_code == 2
    assert "others may read the key in acme.key: chmod 600 acme.key" in result.stderr


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("words", [["usage"], ["cancel", "0199a000-0000-7000-8000-000000000000"]])
def test_what_is_only_told_needs_a_broker_as_well(words: list[str]) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "no result store answers at redis://127.0.0.1:1/1" in result.stderr
