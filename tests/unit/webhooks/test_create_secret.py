"""The command `deliveries secret`."""

import stat
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from worker.webhooks.deliveries_command import deliveries
from worker.webhooks.webhook_rules import resolve_secrets, secret_reference_error


def create(path: Path) -> Result:
    return CliRunner().invoke(deliveries, ["secret", "--new", str(path)])


@pytest.mark.parametrize("name", ["hook.secret", 'my "größe" 🔑'])
def test_the_printed_line_refers_to_a_new_secret_that_signs(tmp_path: Path, name: str) -> None:
    result = create(tmp_path / name)
    reference = tomllib.loads(result.stdout)["secret"]
    assert secret_reference_error(reference) is None
    assert len(resolve_secrets(reference, {})) == 1


def test_the_line_of_a_file_in_this_folder_names_it_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = create(Path("hook.secret"))
    assert result.stdout == f'secret = "file:{tmp_path}/hook.secret"\n'


def test_the_secret_is_private_and_is_not_printed(tmp_path: Path) -> None:
    path = tmp_path / "hook.secret"
    result = create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().strip() not in result.output


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "hook.secret"
    path.write_text("mine")
    result = create(path)
    assert (result.exit_code, path.read_text()) == (2, "mine")
    assert f"{path}: File exists" in " ".join(result.stderr.split())


def test_two_secrets_differ(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert create(tmp_path / name).exit_code == 0
    assert (tmp_path / "a").read_text() != (tmp_path / "b").read_text()
