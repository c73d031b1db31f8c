"""The archive of the previous release, and the check that processes import nothing else."""

import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.compatibility.releases import (
    ARCHIVE,
    Release,
    current_release,
    previous_release,
)
from tools.freeze_release import FROZEN_PATHS


def import_package(release: Release) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", "-c", "import valetkey; print(valetkey.__file__)"]
    return subprocess.run(
        command, env=release.environ({}), capture_output=True, text=True, check=False
    )


def test_the_archive_names_its_commit() -> None:
    with tarfile.open(ARCHIVE) as archive:
        assert re.fullmatch(r"[0-9a-f]{40}", archive.pax_headers["comment"])


def test_the_archive_has_the_packages_of_the_service_and_the_client(tmp_path: Path) -> None:
    release = previous_release(tmp_path)
    assert {path.name for path in release.folder.iterdir()} == set(FROZEN_PATHS)


@pytest.mark.parametrize("make", [previous_release, current_release])
def test_a_process_imports_its_own_release(tmp_path: Path, make: Callable[[Path], Release]) -> None:
    release = make(tmp_path)
    completed = import_package(release)
    assert completed.stdout == f"{release.folder}/valetkey/__init__.py\n"
    assert [each.package for each in release.imports()] == ["valetkey"]


def test_a_process_that_finds_another_release_fails(tmp_path: Path) -> None:
    empty = Release("empty", tmp_path / "empty", tmp_path / "imports")
    completed = import_package(empty)
    assert completed.returncode == 1
    assert f"not of the release in {empty.folder}" in completed.stderr
