import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.support.crypto.keys import tenant_key
from valetkey.cli.main import main
from valetkey.crypto import keyfiles
from valetkey.crypto.keys import load_private_key


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["keygen", *words])


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_key_is_made_by_the_installed_command(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("valetkey")), "keygen", "acme", "--out", "key"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    ((name, halves),) = tomllib.loads(line).items()
    key = keyfiles.read_key_file(tmp_path / "key")
    assert (key.id, tenant_key(key).sign) == (f"acme/{name}", halves["sign"])
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert "below [tenants.acme.keys] of tenants.toml" in done.stderr


def test_both_halves_are_printed_ready_to_be_put_where_they_belong() -> None:
    result = run("acme", "--name", "nightly")
    variable, line = [one for one in result.stdout.splitlines() if one and one[0] != "#"]
    key = load_private_key(variable.removeprefix("VALETKEY_KEY='").removesuffix("'"))
    halves = tenant_key(key)
    assert key.id == "acme/nightly"
    assert tomllib.loads(f"[tenants.acme.keys]\n{line}")["tenants"]["acme"]["keys"] == {
        "nightly": {"sign": halves.sign, "seal": halves.seal}
    }


def test_a_private_key_that_is_written_is_not_printed(tmp_path: Path) -> None:
    for words in ((), ("--json",)):
        path = tmp_path / f"key{len(words)}"
        result = run("acme", "--out", str(path), *words)
        private = json.loads(path.read_text())["keys"]
        assert not [key["d"] for key in private if key["d"] in result.output]


def test_json_says_the_same_to_programs(tmp_path: Path) -> None:
    printed = json.loads(run("acme", "--name", "x", "--json").stdout)
    assert load_private_key(printed["private_key"]).id == printed["id"] == "acme/x"
    assert printed["public_line"].startswith("x = {")
    written = json.loads(run("acme", "--name", "x", "--json", "--out", "key").stdout)
    assert written.keys() == {"id", "public_line", "key_file"}
    assert keyfiles.read_key_file(tmp_path / written["key_file"]).id == "acme/x"


def test_a_key_is_not_replaced(tmp_path: Path) -> None:
    run("acme", "--out", "key")
    before = (tmp_path / "key").read_text()
    result = run("acme", "--out", "key")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "key exists, and a key is never replaced" in result.stderr
    assert (tmp_path / "key").read_text() == before


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["Acme"], "a name is up to 63 of a-z, 0-9, - and _"),
        (["acme", "--name", "a/b"], "a name is up to 63"),
        (["acme", "--name", "x" * 64], "a name is up to 63"),
        (["acme", "--out", "nowhere/key"], "nowhere/key: No such file"),
    ],
)
def test_wrong_usage_says_what_is_right(words: list[str], complaint: str) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert complaint in result.stderr


def test_help_teaches_how_to_replace_a_key() -> None:
    text = run("--help").stdout
    assert "valetkey keygen acme --out acme.key" in text
    assert "1. make a second one under another --name" in text
