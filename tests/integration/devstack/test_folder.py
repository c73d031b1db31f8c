"""The data folder of `dev` belongs to one account alone."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from worker.devstack.folder import FolderNotPrivate, locked_folder

ANOTHER_ACCOUNT = 12345
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_and_its_new_parents_are_for_their_owner_only(tmp_path: Path) -> None:
    data = tmp_path / "new" / "data"
    with locked_folder(data):
        assert (mode(data), mode(data.parent), mode(data / "lock")) == (0o700, 0o700, 0o600)


@pytest.mark.parametrize("wider", [0o777, 0o755, 0o750])
def test_the_access_of_other_accounts_to_a_folder_is_taken_away(tmp_path: Path, wider: int) -> None:
    tmp_path.chmod(wider)
    with locked_folder(tmp_path):
        assert mode(tmp_path) == 0o700
    tmp_path.chmod(wider)  # it now has our files
    with locked_folder(tmp_path):
        assert mode(tmp_path) == 0o700


def test_a_folder_with_other_contents_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "report.pdf").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(FolderNotPrivate, match="holds other files"), locked_folder(tmp_path):
        pass
    assert mode(tmp_path) == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["report.pdf"]


@needs_root
def test_a_folder_of_another_account_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, ANOTHER_ACCOUNT, -1)
    with pytest.raises(FolderNotPrivate, match="another account"), locked_folder(tmp_path):
        pass


@needs_root
def test_an_open_folder_with_files_of_another_account_is_refused(tmp_path: Path) -> None:
    with locked_folder(tmp_path):
        pass
    tmp_path.chmod(0o777)
    (tmp_path / "credentials.json").touch()
    os.chown(tmp_path / "credentials.json", ANOTHER_ACCOUNT, -1)
    with pytest.raises(FolderNotPrivate, match="have files in it"), locked_folder(tmp_path):
        pass


def test_dev_names_the_folder_that_it_cannot_use(tmp_path: Path) -> None:
    (tmp_path / "report.pdf").touch()
    tmp_path.chmod(0o777)
    command = [sys.executable, "-m", "worker", "dev", "--data", str(tmp_path)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 1
    assert completed.stderr.startswith(f"Error: Other accounts have access to {tmp_path} (mode 077")
