import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.docs.command_lines import ROOT

LONG_MODULE = "pass\n" * 601
LONG_FUNCTION = "\ndef work():\n" + "    pass\n" * 40
VERSIONS = "models/migrations/versions"


def folder(path: str, modules: int) -> dict[str, str]:
    names = ["__init__", *(f"module_{number}" for number in range(modules))]
    return {f"{path}/{name}.py": "pass\n" for name in names}


def run_tool(root: Path, project: dict[str, str]) -> list[str]:
    """Run the tool in the folder of a project with these modules; return the lines it prints."""
    for path, text in project.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    command = [sys.executable, str(ROOT / "tools" / "sizes.py")]
    completed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert completed.stderr == ""
    lines = completed.stdout.splitlines()
    assert completed.returncode == any(": " in line for line in lines)
    return lines


def problems(root: Path, project: dict[str, str]) -> list[str]:
    return [line for line in run_tool(root, project) if ": " in line]


@pytest.mark.parametrize(
    "project",
    [
        folder("worker", 20)
        | {"worker/module_0.py": LONG_MODULE[5:], "worker/module_1.py": LONG_FUNCTION[:-9]},
        folder("worker", 10) | folder("worker/core", 10),
        folder(VERSIONS, 21) | {f"{VERSIONS}/module_0.py": LONG_MODULE},
        {".venv/long.py": LONG_MODULE},
    ],
    ids=[
        "at every limit",
        "subfolders count by themselves",
        "migrations",
        "outside of the project",
    ],
)
def test_a_project_within_its_limits_passes(tmp_path: Path, project: dict[str, str]) -> None:
    assert problems(tmp_path, project) == []


@pytest.mark.parametrize(
    ("project", "problem"),
    [
        ({"models/a.py": LONG_MODULE}, "models/a.py:1: 601 lines, over 600: split it by topic"),
        ({"tools/a.py": LONG_FUNCTION}, "tools/a.py:2: work has 41 lines, over 40"),
        (
            {"tools/a.py": f"\nasync {LONG_FUNCTION[1:]}"},
            "tools/a.py:2: work has 41 lines, over 40",
        ),
        *(
            (folder(path, 21), f"{path}: 21 modules, over 20: group them in folders")
            for path in ("worker", "worker/proof/verify", "tests/unit/core")
        ),
    ],
)
def test_what_is_too_large_is_named(tmp_path: Path, project: dict[str, str], problem: str) -> None:
    assert problems(tmp_path, project) == [problem]


def test_every_problem_is_named(tmp_path: Path) -> None:
    project = folder("bench", 21) | {"tools/a.py": LONG_FUNCTION + LONG_MODULE}
    places = [line.partition(": ")[0] for line in problems(tmp_path, project)]
    assert places == ["bench", "tools/a.py:1", "tools/a.py:2"]


def test_the_lines_of_each_room_are_shown(tmp_path: Path) -> None:
    paths = ("worker/a.py", "worker/core/b.py", "worker/proof/c.py", "worker/proof/verify/d.py")
    lines = [line.split() for line in run_tool(tmp_path, dict.fromkeys(paths, "pass\n"))]
    assert ["worker", "4", "modules", "4", "lines"] in lines
    assert ["proof", "2", "modules", "2", "lines"] in lines
