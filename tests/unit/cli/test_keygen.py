import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.support.crypto.tokens import tenant_key
from valetkey.cli.main import main
from valetkey.crypto import keyfiles
from valetkey.crypto.keys import load_private_key


def run_keygen(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["keygen", *arguments])


@pytest.fixture(autouse=True)
def _use_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_installed_command_creates_a_key(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("valetkey")), "keygen", "acme", "--out", "key"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = result.stdout.splitlines()
    ((name, public_keys),) = tomllib.loads(line).items()
    key = keyfiles.read_key_file(tmp_path / "key")
    assert (key.id, tenant_key(key).sign) == (f"acme/{name}", public_keys["sign"])
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert "to the table [tenants.acme.keys] in tenants.toml" in result.stderr


def test_the_private_key_and_the_public_line_are_printed_ready_to_use() -> None:
    result = run_keygen("acme", "--name", "nightly")
    variable, line = [row for row in result.stdout.splitlines() if row and row[0] != "#"]
    key = load_private_key(variable.removeprefix("VALETKEY_KEY='").removesuffix("'"))
    public_keys = tenant_key(key)
    assert key.id == "acme/nightly"
    assert tomllib.loads(f"[tenants.acme.keys]\n{line}")["tenants"]["acme"]["keys"] == {
        "nightly": {"sign": public_keys.sign, "seal": public_keys.seal}
    }


def test_a_private_key_written_to_a_file_is_not_printed(tmp_path: Path) -> None:
    for arguments in ((), ("--json",)):
        path = tmp_path / f"key{len(arguments)}"
        result = run_keygen("acme", "--out", str(path), *arguments)
        private = json.loads(path.read_text())["keys"]
        assert not [key["d"] for key in private if key["d"] in result.output]


def test_json_has_the_same_values(tmp_path: Path) -> None:
    printed = json.loads(run_keygen("acme", "--name", "x", "--json").stdout)
    assert load_private_key(printed["private_key"]).id == printed["id"] == "acme/x"
    assert printed["public_line"].startswith("x = {")
    written = json.loads(run_keygen("acme", "--name", "x", "--json", "--out", "key").stdout)
    assert written.keys() == {"id", "public_line", "key_file"}
    assert keyfiles.read_key_file(tmp_path / written["key_file"]).id == "acme/x"


def test_a_key_file_is_not_overwritten(tmp_path: Path) -> None:
    run_keygen("acme", "--out", "key")
    before = (tmp_path / "key").read_text()
    result = run_keygen("acme", "--out", "key")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "key exists, and a key is never overwritten" in result.stderr
    assert (tmp_path / "key").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["Acme"], "a name has up to 63 characters of a-z, 0-9, - and _"),
        (["acme", "--name", "a/b"], "a name has up to 63 characters"),
        (["acme", "--name", "x" * 64], "a name has up to 63 characters"),
        (["acme", "--out", "nowhere/key"], "nowhere/key: No such file"),
    ],
)
def test_wrong_usage_names_the_cause(arguments: list[str], error: str) -> None:
    result = run_keygen(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert error in result.stderr
