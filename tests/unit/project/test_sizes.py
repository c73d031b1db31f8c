import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.docs.command_lines import ROOT

TOOL = ROOT / "tools" / "sizes.py"


def check_sizes(root: Path) -> tuple[int, list[str]]:
    """Run the tool in a project's folder; return its exit code and the lines that it prints."""
    completed = subprocess.run(
        [sys.executable, str(TOOL)], cwd=root, capture_output=True, text=True, check=False
    )
    assert completed.stderr == ""
    return completed.returncode, completed.stdout.splitlines()


def write_module(path: Path, lines: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("pass\n" * lines)


def write_function(path: Path, lines: int, keyword: str = "def") -> None:
    write_module(path)
    path.write_text(f"\n{keyword} work():\n" + "    pass\n" * (lines - 1))


def write_folder(folder: Path, modules: int) -> None:
    write_module(folder / "__init__.py")
    for number in range(modules):
        write_module(folder / f"module_{number}.py")


def test_a_project_at_every_limit_passes(tmp_path: Path) -> None:
    write_folder(tmp_path / "worker", 15)
    write_module(tmp_path / "worker" / "module_0.py", 250)
    write_function(tmp_path / "worker" / "module_1.py", 40)
    assert check_sizes(tmp_path) == (0, [])


def test_a_module_that_is_too_long_is_named(tmp_path: Path) -> None:
    write_module(tmp_path / "models" / "long.py", 251)
    problem = "models/long.py:1: 251 lines, over 250: split it by topic"
    assert check_sizes(tmp_path) == (1, [problem])


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_a_function_that_is_too_long_is_named_by_its_line(tmp_path: Path, keyword: str) -> None:
    write_function(tmp_path / "valetkey" / "long.py", 41, keyword)
    assert check_sizes(tmp_path) == (1, ["valetkey/long.py:2: work has 41 lines, over 40"])


@pytest.mark.parametrize("folder", ["worker", "worker/core/policy", "tests/unit/core"])
def test_a_folder_with_too_many_modules_is_named_with_their_number(
    tmp_path: Path, folder: str
) -> None:
    write_folder(tmp_path / folder, 16)
    assert check_sizes(tmp_path) == (1, [f"{folder}: 16 modules, over 15: group them in folders"])


def test_modules_of_subfolders_do_not_count_for_their_parent(tmp_path: Path) -> None:
    write_folder(tmp_path / "worker", 10)
    write_folder(tmp_path / "worker" / "core", 10)
    assert check_sizes(tmp_path) == (0, [])


def test_every_problem_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "bench", 16)
    write_function(tmp_path / "tools" / "long.py", 300)
    _, lines = check_sizes(tmp_path)
    places = ["bench", "tools/long.py:1", "tools/long.py:2"]
    assert [line.partition(": ")[0] for line in lines] == places


def test_migrations_are_exempt(tmp_path: Path) -> None:
    write_folder(tmp_path / "models" / "migrations" / "versions", 16)
    write_module(tmp_path / "models" / "migrations" / "versions" / "module_0.py", 300)
    assert check_sizes(tmp_path) == (0, [])


def test_folders_outside_of_the_project_are_not_checked(tmp_path: Path) -> None:
    write_module(tmp_path / ".venv" / "long.py", 300)
    assert check_sizes(tmp_path) == (0, [])
